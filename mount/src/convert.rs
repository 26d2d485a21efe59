//! Converts FsCore's types to those of the FUSE protocol, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentfs_core::event::ObjectKind;
use agentfs_core::{Attr, Nanos, SetTime};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

/// What stat calls the best size of a read.
const BLOCK_SIZE: u32 = 4096;

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.node.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        // Only the twelve permission bits are set.
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: kernel_device(attr.rdev),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Returns the answer to a lookup by which the kernel remembers that there is nothing: node 0.
pub(crate) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(crate) fn file_type(kind: ObjectKind) -> FileType {
    match kind {
        ObjectKind::File => FileType::RegularFile,
        ObjectKind::Directory => FileType::Directory,
        ObjectKind::Symlink => FileType::Symlink,
        ObjectKind::Fifo => FileType::NamedPipe,
        ObjectKind::Socket => FileType::Socket,
        ObjectKind::CharDevice => FileType::CharDevice,
        ObjectKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(crate) fn errno(errno: agentfs_core::Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

fn system_time(moment: Nanos) -> SystemTime {
    let distance = Duration::from_nanos(moment.unsigned_abs());
    if moment < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

/// Returns a moment of the kernel, clamped to what [`Nanos`] can say.
///
/// Before the epoch fuser takes the protocol's nanoseconds, which count forward, backward
/// (`time.rs: system_time_from_time`): the distance it gives has the right seconds and the right
/// nanoseconds, and the wrong sign between them.
pub(crate) fn nanos(time: SystemTime) -> Nanos {
    let distance = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => return Nanos::try_from(after.as_nanos()).unwrap_or(Nanos::MAX),
        Err(before) => before.duration(),
    };
    Nanos::try_from(distance.as_secs())
        .ok()
        .and_then(|seconds| seconds.checked_mul(-1_000_000_000))
        .map_or(Nanos::MIN, |start| {
            start + Nanos::from(distance.subsec_nanos())
        })
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(nanos(time)),
    }
}

/// Encodes a device number in the 32 bits of the protocol (`new_encode_dev`): twelve for the major
/// number and twenty for the minor number, where the system calls put them too.
fn kernel_device(rdev: u64) -> u32 {
    u32::try_from(rdev & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{nanos, system_time};

    #[test]
    fn moments_before_the_epoch_are_what_the_protocol_says() {
        // As fuser makes it of -5 seconds and 7 nanoseconds.
        let given = UNIX_EPOCH - Duration::new(5, 7);
        assert_eq!(nanos(given), -5_000_000_000 + 7);
        assert_eq!(nanos(UNIX_EPOCH - Duration::from_secs(5)), -5_000_000_000);
        assert_eq!(nanos(UNIX_EPOCH - Duration::from_secs(1 << 40)), i64::MIN);
        assert_eq!(system_time(-3), UNIX_EPOCH - Duration::from_nanos(3));
        assert_eq!(nanos(system_time(i64::MAX)), i64::MAX);
    }
}
