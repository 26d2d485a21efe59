//! Programs that watch a mount by the kernel's own means alone.

use agentfs_proto::message::MountInfo;
use serde::Serialize;

use crate::output::Table;

/// A program that watches a mount without the preloaded library.
#[derive(Debug, Serialize)]
pub(crate) struct Listener {
    pub(crate) pid: u32,
    pub(crate) program: String,
    /// Where the mount is.
    pub(crate) mount: String,
    /// How many objects it watches there; 0 for the mount as a whole.
    pub(crate) watches: usize,
}

/// Who watches these mounts, as far as this user may see.
#[cfg(target_os = "linux")]
pub(crate) fn find(mounts: &[MountInfo]) -> Vec<Listener> {
    use agentfs_daemon::listeners;
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

/// There are no mounts here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn find(_: &[MountInfo]) -> Vec<Listener> {
    Vec::new()
}

/// The same for people.
pub(crate) fn table(listeners: &[Listener]) -> Table {
    let mut table = Table::new(&["WITHOUT SHIM", "PROGRAM", "WATCHES", "ON"]);
    for it in listeners {
        table.row([
            it.pid.to_string(),
            it.program.clone(),
            if it.watches == 0 {
                "all".to_owned()
            } else {
                it.watches.to_string()
            },
            it.mount.clone(),
        ]);
    }
    table
}
