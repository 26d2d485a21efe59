//! Checks what only Linux has. `other.rs` has the same names.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use agentfs_daemon::inotify_limit::{self, read_number};

use super::{Finding, State};

/// The device by which a filesystem is mounted.
pub(super) const FUSE_DEVICE: &str = "/dev/fuse";

/// Makes the checks that only this system has.
pub(super) fn all() -> Vec<Finding> {
    vec![
        inotify_watches(),
        inotify_instances(),
        shared_memory(),
        preload(),
        ptrace(),
    ]
}

/// Tries to make a user namespace, because a dozen settings decide whether that is possible.
pub(super) fn user_namespaces() -> Finding {
    let what = "private mounts (user namespaces)";
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .status();
    match tried {
        Ok(status) if status.success() => Finding::ok(what, "can be made"),
        Ok(_) => {
            let advice = if read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
                == Some(1)
            {
                "AppArmor forbids them: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or \
                 give agentfs a profile with `userns,`"
            } else if read_number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
                "the kernel forbids them: sysctl kernel.unprivileged_userns_clone=1"
            } else if read_number("/proc/sys/user/max_user_namespaces") == Some(0) {
                "the kernel allows none: sysctl user.max_user_namespaces=15000"
            } else {
                "something forbids them, usually a container's seccomp profile"
            };
            Finding::with(what, State::Limited, "cannot be made", advice)
        }
        Err(error) => Finding::with(
            what,
            State::Limited,
            format!("could not be tried: {error}"),
            "install util-linux, which has the program unshare",
        ),
    }
}

fn inotify_watches() -> Finding {
    let what = "inotify watches";
    match inotify_limit::watches() {
        Some(limit) if limit < 65_536 => Finding::with(
            what,
            State::Limited,
            format!("{limit} for all programs of a user"),
            format!(
                "large projects need more, and a run takes one for each directory: {}",
                inotify_limit::allow_more()
            ),
        ),
        Some(limit) => Finding::ok(what, format!("{limit} for all programs of a user")),
        None => Finding::with(
            what,
            State::Missing,
            "the kernel has no inotify",
            "programs cannot watch files here, but for those under the AgentFS shim",
        ),
    }
}

fn inotify_instances() -> Finding {
    let what = "inotify instances";
    match read_number("/proc/sys/fs/inotify/max_user_instances") {
        Some(limit) if limit < 256 => Finding::with(
            what,
            State::Limited,
            format!("{limit} for all programs of a user"),
            "an editor with a few language servers needs more: \
             sysctl fs.inotify.max_user_instances=1024",
        ),
        Some(limit) => Finding::ok(what, format!("{limit} for all programs of a user")),
        None => Finding::with(
            what,
            State::Missing,
            "the kernel has no inotify",
            "see above",
        ),
    }
}

/// Creates a ring, as every queue does.
fn shared_memory() -> Finding {
    let what = "shared memory";
    match agentfs_ring::create(agentfs_ring::Capacity::MIN) {
        Ok(_) => Finding::ok(what, "rings can be made"),
        Err(error) => Finding::with(
            what,
            State::Missing,
            error.to_string(),
            "no program can be notified. The kernel needs memfd_create with seals (3.17), and a \
             seccomp profile must allow it",
        ),
    }
}

fn preload() -> Finding {
    let what = "preloading the shim";
    // A statically linked C library has no loader that could preload.
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let musl = ["/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1"];
    let exists = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
    if exists(&loader) || exists(&musl) {
        Finding::ok(
            what,
            "works for dynamically linked programs that are not setuid",
        )
    } else {
        Finding::with(
            what,
            State::Limited,
            "no dynamic loader in a usual place",
            "static programs are notified only of changes on a mount",
        )
    }
}

fn ptrace() -> Finding {
    let what = "tracing (ptrace)";
    match read_number("/proc/sys/kernel/yama/ptrace_scope") {
        None | Some(0) => Finding::ok(what, "own processes may be traced"),
        Some(1) => Finding::ok(what, "children may be traced"),
        Some(scope) => Finding::with(
            what,
            State::Limited,
            format!("forbidden (ptrace_scope {scope})"),
            "nothing of AgentFS needs it; debuggers and strace do: sysctl kernel.yama.ptrace_scope=1",
        ),
    }
}
