//! What `linux.rs` has, for systems that lack it or where it is not written yet.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use agentfs_daemon::KeptMounts;
use agentfs_proto::message::MountInfo;
use clap::Subcommand;

use crate::common::Common;
use crate::output::Output;
use crate::output::failure::Failure;
use crate::status::listeners::Listener;

/// No command needs another system than Linux.
#[derive(Debug, Subcommand)]
pub(crate) enum PlatformCommand {}

impl PlatformCommand {
    /// Is never called, because there is no such command.
    pub(crate) fn run(self, _: &Common, _: &mut Output) -> Result<ExitCode, Failure> {
        match self {}
    }
}

/// The name of the preloaded library's file ends with this.
pub(crate) const LIBRARY_SUFFIX: &str = if cfg!(target_vendor = "apple") {
    "dylib"
} else {
    "so"
};

/// The variable that names libraries to be loaded before all others (dyld(1), rtld(1)).
pub(crate) const PRELOAD_VARIABLE: &str = if cfg!(target_vendor = "apple") {
    "DYLD_INSERT_LIBRARIES"
} else {
    "LD_PRELOAD"
};

/// Returns nothing: branches are not mounted here.
pub(crate) fn kept_mounts(_: &Path, _: Vec<OsString>) -> io::Result<Option<KeptMounts>> {
    Ok(None)
}

/// Does nothing: the process was started by its own name.
pub(crate) fn name_process() {}

/// Fails: only Linux has abstract sockets.
pub(crate) fn send_to_abstract(_: &[u8], _: &str) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing: there is no descriptor of a process that could be waited for.
pub(crate) fn wait_for_end(_: u32) {}

/// Returns false: only Linux has overlay filesystems.
pub(crate) fn is_overlay(_: &Path) -> bool {
    false
}

/// Fails: only `agentfs run` starts daemons, and it needs Linux.
pub(crate) fn start_daemon(_: &Path, project: &Path) -> Result<(), Failure> {
    Err(Failure::Other(format!(
        "start the daemon with: agentfs daemon --lower {}",
        agentfs_export::command::quoted(project.as_os_str())
    )))
}

/// Returns false: branches are not mounted here.
pub(crate) fn is_fuse(_: &Path) -> bool {
    false
}

/// Returns false: statvfs(2) does not say it.
pub(crate) fn is_noexec(_: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Returns false: files have no capabilities.
pub(crate) fn has_capabilities(_: &Path) -> bool {
    false
}

/// Returns nothing: branches are not mounted here.
pub(crate) fn listeners_on(_: &[MountInfo]) -> Vec<Listener> {
    Vec::new()
}

/// Does nothing: commands that leave processes behind need Linux.
pub(crate) fn adopt_orphans() {}

/// Returns true: as [`adopt_orphans`] does nothing, there are no such children.
pub(crate) fn end_children_with(_: &OsStr, _: Duration) -> bool {
    true
}
