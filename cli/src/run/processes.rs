//! Finds the processes that are in a mount namespace with a branch.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use agentfs_proto::message::{MountInfo, ProjectInfo};

/// A process that sees a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountProcess {
    pub(crate) pid: u32,
    /// The name of its program.
    pub(crate) name: String,
    /// Where the process sees the mount.
    pub(crate) point: PathBuf,
}

impl MountProcess {
    fn directory(pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}"))
    }

    /// Returns the file of one of its namespaces.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        Self::directory(self.pid).join("ns").join(kind)
    }
}

/// Returns the processes of this user that see a mount at the path where it was made, or where the project
/// is now. The device number alone does not suffice: it may be another mount's when this one is gone.
pub(crate) fn of(mount: &MountInfo, project: &ProjectInfo) -> Vec<MountProcess> {
    let paths = [mount.path.as_path(), project.now_at.as_path()];
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let pids = processes.filter_map(|entry| pid(entry.ok()?));
    let processes = pids.filter_map(|pid| process(pid, mount));
    let fits = |it: &MountProcess| paths.contains(&it.point.as_path());
    processes.filter(fits).collect()
}

/// Returns the process, if it is in another mount namespace than this one and has the mount there, with
/// nothing mounted over it (proc_pid_mountinfo(5)).
fn process(pid: u32, mount: &MountInfo) -> Option<MountProcess> {
    let directory = MountProcess::directory(pid);
    let namespace = |directory: &Path| fs::read_link(directory.join("ns/mnt")).ok();
    if namespace(&directory)? == namespace(Path::new("/proc/self"))? {
        return None;
    }
    let point = point_of(mount, &fs::read(directory.join("mountinfo")).ok()?)?;
    Some(MountProcess {
        pid,
        name: name(&directory),
        point,
    })
}

/// Returns whether this process sees the mount as well.
pub(crate) fn is_here(mount: &MountInfo) -> bool {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    point_of(mount, &mounts).is_some_and(|it| it == mount.path.as_path())
}

/// Returns where a mount is. The path differs from the original one when a directory above was renamed.
fn point_of(mount: &MountInfo, mounts: &[u8]) -> Option<PathBuf> {
    let (major, minor) = (
        rustix::fs::major(mount.st_dev),
        rustix::fs::minor(mount.st_dev),
    );
    let device = format!("{major}:{minor}");
    let mut point = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (here, at) = (fields.next(), fields.nth(1));
        if here == Some(device.as_bytes()) {
            point = at;
        } else if at == point {
            // Something else is mounted over it.
            point = None;
        }
    }
    point.map(|it| PathBuf::from(OsString::from_vec(plain(it))))
}

/// Decodes a path of mountinfo, which has the escapes `\\` and three octal digits (fs/seq_file.c: mangle).
fn plain(text: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|it| std::str::from_utf8(it).ok());
        let escaped = digits.and_then(|it| u8::from_str_radix(it, 8).ok());
        path.push(escaped.unwrap_or(*first));
        rest = match escaped {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    path
}

fn name(process: &Path) -> String {
    fs::read_to_string(process.join("comm"))
        .map(|it| it.trim_end().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use agentfs_proto::message::MountInfo;

    use super::point_of;

    fn point(mounts: &[u8]) -> Option<std::path::PathBuf> {
        let mount = MountInfo {
            id: 1,
            branch: 1,
            branch_name: String::new(),
            st_dev: rustix::fs::makedev(0, 77),
            path: b"/before".into(),
        };
        point_of(&mount, mounts)
    }

    #[test]
    fn a_mount_is_found_by_its_device_wherever_it_is_now() {
        let root = "1 0 8:1 / / rw - ext4 /dev/sda rw\n";
        let ours = "2 1 0:77 / /a\\040b\\134 rw - fuse.agentfs agentfs rw\n";
        let over = "3 2 0:78 / /a\\040b\\134 rw - tmpfs none rw\n";
        let found = point([root, ours].concat().as_bytes());
        assert_eq!(found.as_deref(), Some(Path::new("/a b\\")));
        assert_eq!(point([root, ours, over].concat().as_bytes()), None);
        assert_eq!(point(root.as_bytes()), None);
    }
}
