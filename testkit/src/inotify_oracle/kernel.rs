//! The oracle: system calls on a directory of a tmpfs, and real inotify instances.

use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{
    self, AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT,
    XattrFlags,
};
use rustix::io::Errno;

use super::dcache::Held;
use super::generate::{DIRECTORIES, FILES};
use super::op::{Answer, Cookies, How, INSTANCES, Op, Path, Record, SLOTS};

/// A thread's part of the filesystem and its inotify instances, which serve many sequences: closing one
/// takes the kernel milliseconds.
#[derive(Debug)]
pub struct Kernel {
    top: tempfile::TempDir,
    instances: [OwnedFd; INSTANCES],
    sequences: u64,
}

/// One sequence.
#[derive(Debug)]
pub struct Run<'a> {
    kernel: &'a Kernel,
    path: std::path::PathBuf,
    dir: OwnedFd,
    slots: [Option<OwnedFd>; SLOTS],
    held: Held,
    cookies: [Cookies; INSTANCES],
    /// The instance, wd and inode of every watch that was made.
    wds: Vec<(usize, i32, u64)>,
}

/// The results of `inotify_add_watch` and `inotify_rm_watch`, for the other side to do the same.
pub type Wd = Option<i32>;

impl Kernel {
    /// Works in a directory of a tmpfs.
    pub fn on_tmpfs() -> Self {
        Self::below(std::path::Path::new("/dev/shm"))
    }

    /// Works in a directory of its own below this one.
    pub fn below(dir: &std::path::Path) -> Self {
        let instance = || inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        Self {
            top: tempfile::tempdir_in(dir).unwrap(),
            instances: [instance(), instance(), instance()],
            sequences: 0,
        }
    }

    /// Starts a sequence in a fresh tree.
    pub fn start(&mut self) -> Run<'_> {
        self.sequences += 1;
        let path = self.top.path().join(self.sequences.to_string());
        std::fs::create_dir(&path).unwrap();
        for dir in DIRECTORIES {
            std::fs::create_dir(path.join(dir)).unwrap();
        }
        for file in FILES {
            std::fs::write(path.join(file), b"text").unwrap();
        }
        let dir = fs::open(&path, OFlags::DIRECTORY, Mode::empty()).unwrap();
        Run {
            kernel: self,
            path,
            dir,
            slots: Default::default(),
            held: Held::default(),
            cookies: Default::default(),
            wds: Vec::new(),
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        for (instance, wd, _) in self.wds.drain(..) {
            // Some watches are gone with what they watched.
            let _ = inotify::remove_watch(&self.kernel.instances[instance], wd);
        }
        self.slots = Default::default();
        std::fs::remove_dir_all(&self.path).unwrap();
        for instance in &self.kernel.instances {
            while rustix::io::read(instance, &mut [0; 4096]).is_ok() {}
        }
    }
}

fn relative(path: Path) -> &'static str {
    if path.is_empty() { "." } else { path }
}

impl Run<'_> {
    /// Returns whether the operation would lead where the two sides are known to differ.
    pub fn parts_ways(&mut self, op: Op) -> bool {
        self.held.shows_through(&self.path, op, &self.slots)
    }

    /// Carries out an operation; for one that concerns a watch, returns also which.
    pub fn run(&mut self, op: Op) -> (Answer, Wd) {
        match op {
            Op::Watch {
                instance,
                path,
                mask,
            } => {
                let path = self.path.join(path);
                let flags = WatchFlags::from_bits_retain(mask);
                match inotify::add_watch(&self.kernel.instances[instance], &path, flags) {
                    Ok(wd) => {
                        let inode = fs::stat(&path).unwrap().st_ino;
                        self.wds.push((instance, wd, inode));
                        (Answer::Done, Some(wd))
                    }
                    Err(_) => (Answer::Failed, None),
                }
            }
            Op::Unwatch { instance, path } => self.unwatch(instance, path),
            Op::Drain { instance, room } => (Answer::Records(self.drain(instance, room)), None),
            op => {
                let done = self.change(op).is_ok();
                (if done { Answer::Done } else { Answer::Failed }, None)
            }
        }
    }

    /// Removes the instance's last watch on what the path names.
    fn unwatch(&mut self, instance: usize, path: Path) -> (Answer, Wd) {
        let Ok(stat) = fs::stat(self.path.join(path)) else {
            return (Answer::Failed, None);
        };
        let mut of_path = self.wds.iter().rev();
        let found = of_path.find(|watch| watch.0 == instance && watch.2 == stat.st_ino);
        let wd = found.map(|(_, wd, _)| *wd);
        let removed =
            wd.filter(|wd| inotify::remove_watch(&self.kernel.instances[instance], *wd).is_ok());
        match removed {
            Some(wd) => (Answer::Done, Some(wd)),
            None => (Answer::Failed, None),
        }
    }

    /// Reads once, or as many as it takes when the buffer is large.
    fn drain(&mut self, instance: usize, room: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            match rustix::io::read(&self.kernel.instances[instance], &mut buffer) {
                Ok(len) => parse(&buffer[..len], &mut self.cookies[instance], &mut records),
                Err(Errno::AGAIN) => return records,
                Err(error) => panic!("reading an inotify instance: {error}"),
            }
            if room < 65_536 {
                return records;
            }
        }
    }

    fn slot(&self, slot: usize) -> Result<&OwnedFd, Errno> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    fn change(&mut self, op: Op) -> Result<(), Errno> {
        let dir = &self.dir;
        let mode = Mode::from_raw_mode(0o644);
        match op {
            Op::Open { slot, path, how } => {
                self.slots[slot] = None;
                let stat = fs::statat(dir, relative(path), AtFlags::empty());
                if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo) {
                    // A pipe belongs to the kernel, on a mount too.
                    return Err(Errno::NXIO);
                }
                let flags = open_flags(how) | OFlags::NONBLOCK;
                self.slots[slot] = Some(fs::openat(dir, relative(path), flags, mode)?);
                Ok(())
            }
            Op::Close { slot } => self.slots[slot].take().map(drop).ok_or(Errno::BADF),
            Op::Read { slot } => {
                let fd = self.slot(slot)?;
                rustix::io::pread(fd, &mut [0_u8; 3], 0).map(drop)
            }
            Op::Write { slot, append, len } => {
                let fd = self.slot(slot)?;
                let size = u64::try_from(fs::fstat(fd)?.st_size).unwrap();
                let at = if append { size } else { 0 };
                rustix::io::pwrite(fd, &[b'x'; 8][..len], at).map(drop)
            }
            Op::Ftruncate { slot, len } => fs::ftruncate(self.slot(slot)?, len),
            Op::Fchmod { slot } => fs::fchmod(self.slot(slot)?, Mode::from_raw_mode(0o600)),
            op => self.change_name(op),
        }
    }

    fn change_name(&self, op: Op) -> Result<(), Errno> {
        let dir = &self.dir;
        let mode = Mode::from_raw_mode(0o755);
        match op {
            Op::Truncate { path, len } => {
                // `truncate(2)` has no form with a directory; the path is absolute.
                let path = self.path.join(path);
                let len = i64::try_from(len).unwrap();
                nix::unistd::truncate(&path, len)
                    .map_err(|errno| Errno::from_raw_os_error(errno as i32))
            }
            Op::Mkdir { path } => fs::mkdirat(dir, path, mode),
            Op::Rmdir { path } => fs::unlinkat(dir, path, AtFlags::REMOVEDIR),
            Op::Unlink { path } => fs::unlinkat(dir, path, AtFlags::empty()),
            Op::Symlink { path } => fs::symlinkat("a", dir, path),
            Op::Mkfifo { path } => fs::mknodat(dir, path, FileType::Fifo, mode, 0),
            Op::Link { from, to } => fs::linkat(dir, from, dir, to, AtFlags::empty()),
            Op::Rename { from, to } => fs::renameat(dir, from, dir, to),
            Op::Exchange { from, to } => {
                fs::renameat_with(dir, from, dir, to, RenameFlags::EXCHANGE)
            }
            Op::Chmod { path } => fs::chmodat(dir, relative(path), mode, AtFlags::empty()),
            Op::Utimens { path, atime, mtime } => {
                let times = Timestamps {
                    last_access: time(atime),
                    last_modification: time(mtime),
                };
                fs::utimensat(dir, relative(path), &times, AtFlags::empty())
            }
            Op::SetXattr { path } => {
                fs::setxattr(self.path.join(path), "user.t", b"v", XattrFlags::empty())
            }
            Op::RemoveXattr { path } => fs::removexattr(self.path.join(path), "user.t"),
            other => unreachable!("{other:?} is no change of a name"),
        }
    }
}

pub fn open_flags(how: How) -> OFlags {
    match how {
        How::Read => OFlags::RDONLY,
        How::Write => OFlags::WRONLY,
        How::Create => OFlags::RDWR | OFlags::CREATE,
        How::CreateTruncate => OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC,
        How::Truncate => OFlags::RDWR | OFlags::TRUNC,
        How::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
    }
}

fn time(set: bool) -> Timespec {
    Timespec {
        tv_sec: 1000,
        tv_nsec: if set { 0 } else { UTIME_OMIT },
    }
}

fn parse(mut bytes: &[u8], cookies: &mut Cookies, records: &mut Vec<Record>) {
    let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    while !bytes.is_empty() {
        let len = usize::try_from(word(bytes, 12)).unwrap();
        let name = &bytes[16..16 + len];
        records.push(Record {
            wd: word(bytes, 0).cast_signed(),
            mask: word(bytes, 4),
            cookie: cookies.number(word(bytes, 8)),
            name: name.iter().copied().take_while(|byte| *byte != 0).collect(),
        });
        bytes = &bytes[16 + len..];
    }
}

#[test]
fn the_kernel_tells_what_a_sequence_did() {
    let mut kernel = Kernel::on_tmpfs();
    let mut run = kernel.start();
    let (_, wd) = run.run(Op::Watch {
        instance: 0,
        path: "d",
        mask: 0xFFF,
    });
    let (answer, _) = run.run(Op::Rename {
        from: "d/a",
        to: "d/b",
    });
    assert_eq!(answer, Answer::Done);
    let (answer, _) = run.run(Op::Drain {
        instance: 0,
        room: 65_536,
    });
    let half = |mask, name: &[u8]| Record {
        wd: wd.unwrap(),
        mask,
        cookie: 1,
        name: name.to_vec(),
    };
    assert_eq!(
        answer,
        Answer::Records(vec![half(0x40, b"a"), half(0x80, b"b")])
    );
}
