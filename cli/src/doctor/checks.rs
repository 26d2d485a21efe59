//! Checks what every system has.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};

use super::system::{self, FUSE_DEVICE};
use super::{Finding, State};

pub(super) fn all() -> Vec<Finding> {
    let mut findings = vec![fuse(), system::user_namespaces(), descriptors()];
    findings.extend(system::all());
    findings
}

pub(super) fn fuse() -> Finding {
    let what = "mounts (FUSE)";
    let opened = fs::File::options().read(true).write(true).open(FUSE_DEVICE);
    match opened {
        Ok(_) => Finding::ok(what, format!("{FUSE_DEVICE} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::with(
            what,
            State::Missing,
            format!("{FUSE_DEVICE} may not be opened"),
            "branches cannot be mounted. Let everybody open it, as most systems do, with: chmod 666 \
             /dev/fuse (as root), or, in a container, start it with: --device /dev/fuse --cap-add \
             SYS_ADMIN. `agentfs fs`, `agentfs watch` and `agentfs run --no-mount` work without mounts",
        ),
        Err(error) => Finding::with(
            what,
            State::Missing,
            format!("{FUSE_DEVICE}: {error}"),
            "branches cannot be mounted. Load the module (modprobe fuse), or, in a container, start \
             it with: --device /dev/fuse. `agentfs fs`, `agentfs watch` and `agentfs run --no-mount` \
             work without mounts",
        ),
    }
}

fn descriptors() -> Finding {
    let what = "open files";
    let limit = getrlimit(Resource::Nofile);
    match limit.maximum {
        Some(maximum) if maximum < 4096 => Finding::with(
            what,
            State::Limited,
            format!("at most {maximum}"),
            "every queue takes two in the daemon; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
        ),
        Some(maximum) => Finding::ok(what, format!("up to {maximum}")),
        None => Finding::ok(what, "no limit"),
    }
}
