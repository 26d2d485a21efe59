//! The Linux calls the queue is made of.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Callers: a number below 0 is refused before it is borrowed. A number of the program is only handed
//!    to system calls, each of which checks it; nothing here assumes that it is still the same file.
//! 2. The kernel: a call that takes a descriptor by number answers EBADF to one that is not open, and
//!    touches no memory but what its arguments point to.
//! 3. libc: `sigset_t` is made of integers alone, so zeros are a value of it. sigemptyset(3) and
//!    sigaddset(3) write only the set they are given, and refuse a signal that there is not.
//! 4. libc (errno(3)): the location of errno is a valid, aligned `int` of the calling thread, which no
//!    other thread uses.

#![expect(
    unsafe_code,
    reason = "raw descriptors come from C callers; signalfd is only in libc"
)]

use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::FileType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use crate::abi::{self, Layout};

/// Borrows a descriptor of the program. If it is closed meanwhile, calls on it fail or see its successor,
/// as they do for any C program.
pub(crate) fn borrowed(fd: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: 1: it is not -1, and whoever borrows it makes only calls as in 2.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Returns device and inode of what `fd` refers to, and what kind of file it is.
pub(crate) fn identify(fd: RawFd) -> Result<((u64, u64), FileType), Errno> {
    let stat = rustix::fs::fstat(borrowed(fd)?)?;
    let node = (stat.st_dev, stat.st_ino);
    Ok((node, FileType::from_raw_mode(stat.st_mode)))
}

/// Returns what poll(2) says about `fd` now.
pub(crate) fn readiness(fd: BorrowedFd<'_>, wanted: PollFlags) -> Result<PollFlags, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    rustix::event::poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds[0].revents())
}

/// Returns the tokens of those entries of an epoll instance that are ready, without waiting.
pub(crate) fn ready_tokens(epoll: &OwnedFd) -> impl Iterator<Item = u64> {
    let mut events = [MaybeUninit::uninit(); 64];
    let found: Vec<u64> = epoll::wait(epoll, &mut events, Some(&Timespec::default()))
        .map(|(ready, _)| ready.iter().map(|event| event.data.u64()).collect())
        .unwrap_or_default();
    found.into_iter()
}

pub(crate) fn new_epoll() -> Result<OwnedFd, Errno> {
    epoll::create(epoll::CreateFlags::CLOEXEC)
}

pub(crate) fn watch(
    epoll: impl AsFd,
    fd: impl AsFd,
    token: u64,
    flags: epoll::EventFlags,
) -> Result<(), Errno> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), flags)
}

/// Makes a timer that fires every `period` nanoseconds, or once.
pub(crate) fn new_timer(period: u64, once: bool) -> Result<QuietFd, Errno> {
    let timer = rustix::time::timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let first = timespec(period.max(1));
    let spec = Itimerspec {
        it_interval: if once { Timespec::default() } else { first },
        it_value: first,
    };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
    Ok(QuietFd(ManuallyDrop::new(timer)))
}

fn timespec(nanos: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    }
}

/// Reads the counter of a timerfd or eventfd. Returns 0 when it has not fired.
pub(crate) fn take_count(fd: impl AsFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

/// Makes a descriptor that becomes readable when the blocked signal `signo` is sent to the process.
pub(crate) fn new_signal(signo: i32) -> Result<QuietFd, Errno> {
    // SAFETY: 3: zeros are a `sigset_t`.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: 3: `set` lives and is ours alone.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: 3: `set` lives, is ours alone and is initialised; a wrong number is an error.
    if unsafe { libc::sigaddset(&raw mut set, signo) } != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: 2: the kernel reads `set`, which lives and is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: the descriptor is open and ours alone: signalfd(2) has just made it, and it is not -1.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(QuietFd(ManuallyDrop::new(fd)))
}

/// Takes what a signalfd holds. Returns the number of signals.
pub(crate) fn take_signals(fd: &QuietFd) -> i64 {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    let mut count = 0;
    while rustix::io::read(fd, &mut info).is_ok_and(|len| len > 0) {
        count += 1;
    }
    count
}

/// Makes an inotify instance that watches the entries of a directory.
pub(crate) fn new_directory_watch(directory: RawFd) -> Result<QuietFd, Errno> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let path = format!("/proc/self/fd/{directory}");
    let entries = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
    inotify::add_watch(&watch, path, entries)?;
    Ok(QuietFd(ManuallyDrop::new(watch)))
}

/// Returns the bits that the changes of its entries since the last call post to a directory
/// (`xnu: kpi_vfs.c`).
pub(crate) fn take_directory_changes(watch: &QuietFd) -> u32 {
    let mut bytes = [MaybeUninit::uninit(); 4096];
    let mut changes = inotify::Reader::new(watch, &mut bytes);
    let mut hint = 0;
    while let Ok(change) = changes.next() {
        let flags = change.events();
        hint |= abi::NOTE_WRITE;
        let is_made_or_removed = flags.intersects(ReadFlags::CREATE | ReadFlags::DELETE);
        if flags.contains(ReadFlags::ISDIR) && is_made_or_removed {
            hint |= abi::NOTE_LINK;
        }
    }
    hint
}

/// A descriptor that is closed past close(2): in a program that has this queue preloaded, close(2) would
/// come back here and want the lock of the queue.
#[derive(Debug)]
pub(crate) struct QuietFd(ManuallyDrop<OwnedFd>);

impl AsFd for QuietFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for QuietFd {
    fn drop(&mut self) {
        // It was open until now, so this does not fail.
        let _closed = close(self.0.as_raw_fd());
    }
}

/// Copies a structure of the C API, or fails with EFAULT, as the kernel does.
pub(crate) fn copy_in<L: Layout>(from: *const L) -> Result<L, Errno> {
    let mut copy = L::zeroed();
    let bytes = bytemuck::bytes_of_mut(&mut copy);
    let to = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let from = libc::iovec {
        iov_base: from.cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let me = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the kernel checks `from` and writes only to `to`, which are the live bytes of `copy`; any
    // bytes are a value of it, because it is `Pod`. Both counts are those of the one vector given.
    let copied = unsafe { libc::process_vm_readv(me, &raw const to, 1, &raw const from, 1, 0) };
    match usize::try_from(copied) {
        Ok(len) if len == size_of::<L>() => Ok(copy),
        _ => Err(Errno::FAULT),
    }
}

/// Closes a descriptor number of the program.
pub(crate) fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: 2: the one argument is a number. It is the caller's to close, by the promise of close(2).
    match unsafe { libc::syscall(libc::SYS_close, fd) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Does what dup2(2) does, on descriptor numbers of the program.
pub(crate) fn dup2(old: RawFd, new: RawFd) -> Result<RawFd, Errno> {
    if old == new {
        return rustix::io::fcntl_getfd(borrowed(old)?).map(|_| new);
    }
    // SAFETY: 2: the arguments are numbers. `new` is the caller's to replace, by the promise of dup2(2).
    match unsafe { libc::syscall(libc::SYS_dup3, old, new, 0) } {
        -1 => Err(last_errno()),
        _ => Ok(new),
    }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Sets `errno` of the calling thread.
pub(crate) fn set_errno(errno: Errno) {
    // SAFETY: the function has no precondition.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: 4: valid and aligned for a write, and used by nobody meanwhile.
    unsafe { *location = errno.raw_os_error() };
}
