//! Tests what the kernel oracle does not ask for: locks, files without names, devices that look
//! like whiteouts.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::support::Fixture;

fn open(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).open(path).unwrap()
}

fn lock_range(file: &File, kind: i32, start: i64, len: i64) -> Result<(), Errno> {
    lock_range_by(libc::F_OFD_SETLK, file, kind, start, len)
}

/// Locks a range by `F_OFD_SETLK`, or by `F_OFD_SETLKW`, which waits. Such a lock is like a POSIX
/// lock, but the open file holds it, so that one process can have two.
fn lock_range_by(command: i32, file: &File, kind: i32, start: i64, len: i64) -> Result<(), Errno> {
    let lock = libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    #[expect(unsafe_code, reason = "rustix has no ranges of a file to lock")]
    // SAFETY: the descriptor is open, and the third argument is what this command takes.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) };
    if result == 0 {
        Ok(())
    } else {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap();
        Err(Errno::from_raw_os_error(code))
    }
}

#[test]
fn locks_hold_among_the_programs_of_one_mount() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    fs::write(mount.path("f"), "0123456789").unwrap();
    let (one, two) = (open(&mount.path("f")), open(&mount.path("f")));

    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused = flock(&two, FlockOperation::NonBlockingLockShared);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
    // A lock of another process counts, too, and ends with that process.
    let other = |arguments: &[&str]| {
        let mut command = Command::new("flock");
        command.args(arguments).arg(mount.path("f")).arg("true");
        command.status().unwrap().success()
    };
    assert!(!other(&["--nonblock"]));
    flock(&one, FlockOperation::Unlock).unwrap();
    assert!(other(&["--nonblock"]));

    lock_range(&one, libc::F_WRLCK, 0, 4).unwrap();
    lock_range(&two, libc::F_WRLCK, 4, 4).unwrap();
    let refused = lock_range(&two, libc::F_RDLCK, 3, 1);
    assert_eq!(refused, Err(Errno::AGAIN));
    drop(one);
    // A process that another test is about to start may have the file open for a moment, too.
    let (locked, locks) = mpsc::channel();
    std::thread::spawn(move || {
        locked.send(lock_range_by(libc::F_OFD_SETLKW, &two, libc::F_RDLCK, 3, 1))
    });
    let waited = locks.recv_timeout(Duration::from_secs(60));
    waited.expect("the lock in time").unwrap();
}

#[test]
fn who_waits_for_a_lock_can_be_killed() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    fs::write(mount.path("f"), "").unwrap();
    let held = open(&mount.path("f"));
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut waiting = Command::new("flock")
        .arg(mount.path("f"))
        .arg("true")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    waiting.kill().unwrap();
    assert!(!waiting.wait().unwrap().success());
    drop(held);
}

#[test]
fn locks_are_not_shared_by_two_mounts_of_a_branch() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    // The crate documents this limit: should this assertion ever fail, change the documentation
    // there.
    let mounts = [fixture.mount(), fixture.mount()];
    fs::write(mounts[0].path("f"), "").unwrap();
    let [one, two] = mounts.each_ref().map(|mount| open(&mount.path("f")));
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn a_file_without_a_name_is_refused_as_by_a_filesystem_that_has_none() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    for _ in 0..2 {
        let opened = rustix::fs::open(mount.dir.path(), flags, Mode::RUSR);
        assert_eq!(opened.map(drop), Err(Errno::OPNOTSUPP));
    }
    // Programs have another way for that case.
    let file = tempfile::tempfile_in(mount.dir.path()).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}

#[test]
fn a_device_0_0_of_a_program_is_an_object_as_any_other() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    let path = mount.path("w");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, 0).unwrap();
    let seen = fs::symlink_metadata(&path).unwrap();
    assert!(seen.file_type().is_char_device());
    assert_eq!(seen.rdev(), 0);
    let names: Vec<_> = fs::read_dir(mount.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["w"]);
    rustix::fs::unlinkat(CWD, &path, AtFlags::empty()).unwrap();
    let gone = fs::symlink_metadata(&path).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}
