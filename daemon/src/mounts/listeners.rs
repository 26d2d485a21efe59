//! The processes that watch files by the kernel's own means: every inotify and fanotify instance,
//! as `/proc` shows it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Watches of the preloaded library have the highest possible numbers (`INOTIFY_IOC_SETNEXTWD`).
const FIRST_HIDDEN: u32 = 0x7FF0_0000;

/// The bell of the library is a watch for this.
const IN_ACCESS: u32 = 1;

/// An instance of inotify or fanotify.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Instance {
    /// A process that has it open.
    pub pid: u32,
    /// Whether the preloaded library has its hidden watch on it.
    pub is_hooked: bool,
    /// The device, as `st_dev`, and inode number of each object that it watches.
    pub marks: Vec<(u64, u64)>,
    /// The devices that it watches as a whole.
    pub devices: Vec<u64>,
}

/// Returns all instances of the processes that this one may look at.
#[must_use]
pub fn all() -> Vec<Instance> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .flat_map(of_process)
        .collect()
}

/// Returns the name of a process.
#[must_use]
pub fn name(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
    comm.map_or_else(|_| "?".to_owned(), |it| it.trim_end().to_owned())
}

fn of_process(pid: u32) -> Vec<Instance> {
    let process = Path::new("/proc").join(pid.to_string());
    let files = fs::read_dir(process.join("fd")).into_iter().flatten();
    let is_instance = |link: &Path| {
        let link = link.as_os_str();
        link == "anon_inode:inotify" || link == "anon_inode:[fanotify]"
    };
    files
        .flatten()
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|link| is_instance(&link)))
        .filter_map(|entry| {
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).ok()?;
            Some(parse(pid, &info, || mounts(&process)))
        })
        .collect()
}

/// Returns the devices of a process's mounts, by the numbers of the mounts.
fn mounts(process: &Path) -> HashMap<u64, u64> {
    let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        Some((id, device))
    });
    mounts.collect()
}

fn parse(pid: u32, info: &str, mounts: impl Fn() -> HashMap<u64, u64>) -> Instance {
    let mut instance = Instance {
        pid,
        ..Instance::default()
    };
    for line in info.lines() {
        let Some((kind, fields)) = line.split_once(' ') else {
            continue;
        };
        if kind != "inotify" && kind != "fanotify" {
            continue;
        }
        let field = |name: &str| {
            let mut values = fields.split(' ').filter_map(|it| it.strip_prefix(name));
            u64::from_str_radix(values.next()?, 16).ok()
        };
        // One that waits for a daemon only, by `IN_MODIFY`, is served by nobody.
        let is_bell = field("mask:").is_some_and(|mask| mask & u64::from(IN_ACCESS) != 0);
        if is_bell && field("wd:").is_some_and(|wd| wd >= u64::from(FIRST_HIDDEN)) {
            instance.is_hooked = true;
        }
        match (field("sdev:").map(st_dev), field("ino:")) {
            (Some(device), Some(inode)) => instance.marks.push((device, inode)),
            (Some(device), None) => instance.devices.push(device),
            (None, _) => {
                let mount = field("mnt_id:");
                instance
                    .devices
                    .extend(mount.and_then(|id| mounts().get(&id).copied()));
            }
        }
    }
    instance
}

/// Converts the kernel's own encoding of a device (`MKDEV`) to `st_dev`.
fn st_dev(kernel: u64) -> u64 {
    let major = u32::try_from(kernel >> 20).unwrap_or_default();
    let minor = u32::try_from(kernel & 0xF_FFFF).unwrap_or_default();
    rustix::fs::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_read_as_the_kernel_writes_them() {
        let info = "pos:\t0\nflags:\t02004000\nmnt_id:\t15\nino:\t1057\n\
            inotify wd:2 ino:1b sdev:30 mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1\n\
            inotify wd:7fffffff ino:5 sdev:800010 mask:1 ignored_mask:0\n";
        let instance = parse(7, info, HashMap::new);
        assert!(instance.is_hooked);
        let device = rustix::fs::makedev(8, 16);
        let expected = [(rustix::fs::makedev(0, 0x30), 0x1B), (device, 5)];
        assert_eq!(instance.marks, expected);
    }

    #[test]
    fn an_instance_that_waits_for_a_daemon_is_served_by_nobody() {
        let info = "inotify wd:1 ino:1b sdev:30 mask:fce ignored_mask:0\n\
            inotify wd:7ffffffe ino:5 sdev:800010 mask:2 ignored_mask:0\n";
        assert!(!parse(7, info, HashMap::new).is_hooked);
    }

    #[test]
    fn fanotify_watches_objects_mounts_and_filesystems() {
        let info = "fanotify flags:10 event-flags:0\n\
            fanotify ino:4f sdev:30 mflags:0 mask:3b ignored_mask:40000000\n\
            fanotify mnt_id:12 mflags:0 mask:3b ignored_mask:0\n\
            fanotify sdev:31 mflags:0 mask:3b ignored_mask:0\n";
        let mounts = || HashMap::from([(0x12, 99)]);
        let instance = parse(7, info, mounts);
        assert!(!instance.is_hooked);
        assert_eq!(instance.marks, [(rustix::fs::makedev(0, 0x30), 0x4F)]);
        assert_eq!(instance.devices, [99, rustix::fs::makedev(0, 0x31)]);
    }

    #[test]
    fn an_instance_of_this_process_is_found() {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let directory = tempfile::tempdir().unwrap();
        let fd = init(CreateFlags::CLOEXEC).unwrap();
        add_watch(&fd, directory.path(), WatchFlags::CREATE).unwrap();
        let stat = rustix::fs::stat(directory.path()).unwrap();
        let found = all()
            .into_iter()
            .find(|it| it.marks.contains(&(stat.st_dev, stat.st_ino)))
            .unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(!found.is_hooked);
    }
}
