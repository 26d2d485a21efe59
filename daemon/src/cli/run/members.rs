//! Who is in a mount namespace with a branch.

use std::fs;
use std::path::{Path, PathBuf};

use agentfs_proto::message::MountInfo;

/// A process that sees a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub(super) pid: u32,
    /// What it is called.
    pub(super) name: String,
}

impl Member {
    fn directory(pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}"))
    }

    /// One of its namespaces.
    pub(super) fn namespace(&self, kind: &str) -> PathBuf {
        Self::directory(self.pid).join("ns").join(kind)
    }
}

/// The processes of this user that see a mount.
pub(super) fn of(mount: &MountInfo) -> Vec<Member> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let pids = processes.filter_map(|entry| pid(entry.ok()?));
    pids.filter_map(|pid| member(pid, mount)).collect()
}

/// The process, if the mount is the uppermost at its place there (proc_pid_mountinfo(5)).
fn member(pid: u32, mount: &MountInfo) -> Option<Member> {
    let directory = Member::directory(pid);
    let mounts = fs::read(directory.join("mountinfo")).ok()?;
    let point = escaped(&mount.path);
    let (major, minor) = (
        rustix::fs::major(mount.st_dev),
        rustix::fs::minor(mount.st_dev),
    );
    let device = format!("{major}:{minor}");
    let mut uppermost = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let here = fields.next();
        if fields.nth(1) == Some(&point) {
            uppermost = here;
        }
    }
    if uppermost != Some(device.as_bytes()) {
        return None;
    }
    Some(Member {
        pid,
        name: name(&directory),
    })
}

/// A path as mountinfo writes it (fs/seq_file.c: mangle).
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    for byte in path {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
            text.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            text.push(*byte);
        }
    }
    text
}

fn name(process: &Path) -> String {
    fs::read_to_string(process.join("comm"))
        .map(|it| it.trim_end().to_owned())
        .unwrap_or_default()
}
