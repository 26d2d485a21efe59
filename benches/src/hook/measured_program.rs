//! The programs that are measured. They call libc, as programs do.
#![expect(unsafe_code, reason = "calls libc's functions by their addresses")]

use std::ffi::{CStr, c_void};
use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Instant;

use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Failure;
use crate::child::WAITING;
use crate::kqueue::{EVFILT_READ, EVFILT_VNODE, Kevent, Kqueue, NOTE_WRITE};
use crate::process_pair::now;

/// What the parent asks for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    words: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let args: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["read", kind, rounds] => read(kind, rounds.parse()?),
        ["wake", "inotify", path] => {
            let instance = Inotify::init(InitFlags::IN_CLOEXEC)?;
            instance.add_watch(*path, AddWatchFlags::IN_MODIFY)?;
            wake(std::os::fd::AsFd::as_fd(&instance).as_raw_fd())
        }
        ["wake", "bell", path] => {
            let instance = Inotify::init(InitFlags::IN_CLOEXEC)?;
            instance.add_watch(*path, AddWatchFlags::IN_ACCESS)?;
            wake(std::os::fd::AsFd::as_fd(&instance).as_raw_fd())
        }
        ["wake", "eventfd", number] => wake(number.parse()?),
        ["wake", "kqueue", path] => {
            let file = std::fs::File::open(path)?;
            let queue = kqueue(file.as_raw_fd(), EVFILT_VNODE, NOTE_WRITE)?;
            wakes(|| sleep_in(&queue))
        }
        ["wake", "kqueue-pipe", number] => {
            let pipe = number.parse()?;
            let queue = kqueue(pipe, EVFILT_READ, 0)?;
            wakes(|| sleep_in(&queue).and_then(|()| read_some(pipe)))
        }
        ["register", path, count] => register(path, count.parse()?),
        other => Err(format!("unknown program {other:?}").into()),
    }
}

/// The version of libc's own symbols.
#[cfg(target_arch = "aarch64")]
const VERSION: &CStr = c"GLIBC_2.17";
#[cfg(not(target_arch = "aarch64"))]
const VERSION: &CStr = c"GLIBC_2.2.5";

type Read = unsafe extern "C" fn(i32, *mut c_void, usize) -> isize;

/// Calls libc's own function and the one that a program finds, in blocks and in turns.
fn read(kind: &str, rounds: usize) -> Result<(), Failure> {
    let fd: OwnedFd = match kind {
        "zero" => std::fs::File::open("/dev/zero")?.into(),
        _ => {
            // SAFETY: no preconditions.
            let fd = unsafe { libc::eventfd(u32::MAX - 1, libc::EFD_SEMAPHORE) };
            // SAFETY: a new descriptor that nobody else owns.
            unsafe { OwnedFd::from_raw_fd(fd) }
        }
    };
    // dlvsym is not hooked: it finds libc's own.
    // SAFETY: a string.
    let libc = unsafe { libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY) };
    // SAFETY: a handle, or null, which stands for all libraries, and strings.
    let found = unsafe { libc::dlvsym(libc, c"read".as_ptr(), VERSION.as_ptr()) };
    // SAFETY: the address of a function of this type.
    let original = unsafe { std::mem::transmute::<*mut c_void, Read>(found) };
    let hooked: Read = libc::read;
    if std::ptr::fn_addr_eq(original, hooked) {
        return Err("the library is not loaded".into());
    }
    let mut out = std::io::stdout().lock();
    for _ in 0..rounds {
        let first = block(original, fd.as_raw_fd());
        let ours = block(hooked, fd.as_raw_fd());
        let last = block(original, fd.as_raw_fd());
        writeln!(out, "{} {ours}", f64::midpoint(first, last))?;
    }
    Ok(())
}

/// Returns the nanoseconds per call.
fn block(read: Read, fd: RawFd) -> f64 {
    const CALLS: u32 = 2000;
    let read = black_box(read);
    let mut bytes = [0_u8; 8];
    let len = if fd >= 0 { bytes.len() } else { 0 };
    let start = Instant::now();
    for _ in 0..CALLS {
        // SAFETY: a buffer of this length.
        black_box(unsafe { read(fd, bytes.as_mut_ptr().cast(), len) });
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn wake(fd: RawFd) -> Result<(), Failure> {
    wakes(|| read_some(fd))
}

/// Answers each line twice: that it is about to wait, and then when it had what it waited for.
fn wakes(mut wait: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        drop(line?);
        writeln!(out, "{WAITING}")?;
        wait()?;
        writeln!(out, "{}", now())?;
    }
    Ok(())
}

fn read_some(fd: RawFd) -> Result<(), Failure> {
    let mut bytes = [0_u8; 4096];
    // SAFETY: a buffer of this length.
    let read = unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
    if read <= 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

/// Makes a queue with one knote.
fn kqueue(fd: RawFd, filter: i16, fflags: u32) -> Result<Kqueue, Failure> {
    let queue = Kqueue::new()?;
    queue.add(fd, filter, fflags, 0)?;
    Ok(queue)
}

/// Sleeps until there is an event.
fn sleep_in(queue: &Kqueue) -> Result<(), Failure> {
    match queue.wait(&mut [Kevent::default(); 16], None)? {
        1 => Ok(()),
        count => Err(format!("{count} events, of 1").into()),
    }
}

/// Registers watches, and prints the microseconds of each.
fn register(path: &str, count: u32) -> Result<(), Failure> {
    let paths: Vec<String> = (0..count).map(|it| format!("{path}/{it}")).collect();
    let instance = Inotify::init(InitFlags::IN_CLOEXEC)?;
    // The first makes the connection, which is not what is measured.
    instance.add_watch(path, AddWatchFlags::IN_MODIFY)?;
    instance.rm_watch(instance.add_watch(path, AddWatchFlags::IN_MODIFY)?)?;
    let start = Instant::now();
    for path in &paths {
        instance.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)?;
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    writeln!(std::io::stdout(), "{each}")?;
    // Stays until it is killed, so that the registrations can be counted.
    drop(std::io::stdin().lock().lines().next());
    Ok(())
}
