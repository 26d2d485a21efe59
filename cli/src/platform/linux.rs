//! What is done in a way of its own on Linux. `other.rs` has the same names.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::ExitCode;

use agentfs_daemon::listeners;
use agentfs_proto::message::MountInfo;
use clap::Subcommand;
use rustix::fs::StatVfsMountFlags;

use crate::output::failure::Failure;
use crate::status::listeners::Listener;
use crate::{Common, Output, join, run};

/// The commands that need Linux.
#[derive(Debug, Subcommand)]
pub(crate) enum PlatformCommand {
    Run(run::RunArgs),
    Join(join::JoinArgs),
    #[command(hide = true)]
    Enter(run::child::EnterArgs),
}

impl PlatformCommand {
    /// Carries out the command. The exit status of most of them is that of another program.
    pub(crate) fn run(self, common: &Common, _: &mut Output) -> Result<ExitCode, Failure> {
        Ok(match self {
            Self::Run(args) => run::run(common, args),
            Self::Join(args) => join::run(common, &args),
            Self::Enter(args) => run::child::run(common, args),
        })
    }
}

/// The name of the preloaded library's file ends with this.
pub(crate) const LIBRARY_SUFFIX: &str = "so";

/// The variable that names libraries to be loaded before all others (ld.so(8)).
pub(crate) const PRELOAD_VARIABLE: &str = "LD_PRELOAD";

/// Names this process, which may have been started as `/proc/self/exe`, for ps(1) and the like.
pub(crate) fn name_process() {
    if let Err(error) = rustix::thread::set_name(c"agentfs") {
        tracing::debug!(%error, "the process keeps its name");
    }
}

/// Sends a datagram to an abstract socket (unix(7)).
pub(crate) fn send_to_abstract(name: &[u8], text: &str) -> io::Result<usize> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)
}

/// Returns whether a directory lies on a FUSE mount.
pub(crate) fn is_fuse(directory: &Path) -> bool {
    /// `FUSE_SUPER_MAGIC` (statfs(2)).
    const FUSE: u32 = 0x6573_5546;
    // The type of the number differs from machine to machine; the value has 32 bits.
    let found = rustix::fs::statfs(directory);
    found.is_ok_and(|it| u32::try_from(it.f_type & 0xFFFF_FFFF) == Ok(FUSE))
}

/// Returns whether no program and no library can be loaded from a directory's filesystem.
pub(crate) fn is_noexec(directory: &Path) -> io::Result<bool> {
    let mount = rustix::fs::statvfs(directory)?;
    Ok(mount.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Returns whether a program gets capabilities from its file (capabilities(7)).
pub(crate) fn has_capabilities(program: &Path) -> bool {
    let mut value = [0_u8; 64];
    rustix::fs::getxattr(program, "security.capability", &mut value).is_ok()
}

/// Returns the programs that watch these mounts without the preloaded library, as far as this user may
/// see them.
pub(crate) fn listeners_on(mounts: &[MountInfo]) -> Vec<Listener> {
    if mounts.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for instance in listeners::all().iter().filter(|it| !it.is_hooked) {
        for mount in mounts {
            let marks = instance.marks.iter();
            let watches = marks.filter(|(device, _)| *device == mount.st_dev).count();
            if watches > 0 || instance.devices.contains(&mount.st_dev) {
                found.push(Listener {
                    pid: instance.pid,
                    program: listeners::name(instance.pid),
                    mount: mount.path.to_string(),
                    watches,
                });
            }
        }
    }
    found
}
