//! A kqueue of whatever library is preloaded into this program: there is none on Linux to link with.
#![expect(
    unsafe_code,
    reason = "calls functions that are found when the program runs"
)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::ptr::{from_ref, null, null_mut};

use nix::libc::{RTLD_DEFAULT, dlsym, timespec};

/// `struct kevent` of macOS.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Kevent {
    /// What the filter watches: for a file, its descriptor.
    pub(crate) ident: u64,
    /// `EVFILT_*`.
    pub(crate) filter: i16,
    /// `EV_*`.
    pub(crate) flags: u16,
    /// `NOTE_*`.
    pub(crate) fflags: u32,
    /// What the filter counts.
    pub(crate) data: i64,
    /// The program's own.
    pub(crate) udata: u64,
}

/// A descriptor can be read.
pub(crate) const EVFILT_READ: i16 = -1;
/// A file changes.
pub(crate) const EVFILT_VNODE: i16 = -4;
/// The file is written.
pub(crate) const NOTE_WRITE: u32 = 0x2;

const EV_ADD: u16 = 0x1;
const EV_CLEAR: u16 = 0x20;

type KqueueFn = unsafe extern "C" fn() -> c_int;
type KeventFn =
    unsafe extern "C" fn(c_int, *const Kevent, c_int, *mut Kevent, c_int, *const timespec) -> c_int;

/// A queue. It is open as long as the program runs.
#[derive(Debug)]
pub(crate) struct Kqueue {
    kevent: KeventFn,
    queue: RawFd,
}

fn find(name: &CStr) -> io::Result<*mut c_void> {
    // SAFETY: a C string, and the handle that stands for all libraries.
    let found = unsafe { dlsym(RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        let text = format!("no library here has {}", name.to_string_lossy());
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(found)
}

impl Kqueue {
    /// Makes a queue.
    ///
    /// # Errors
    ///
    /// Fails when no preloaded library has kqueues, or when it makes none.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the function of that name has this type.
        let kqueue = unsafe { std::mem::transmute::<*mut c_void, KqueueFn>(find(c"kqueue")?) };
        // SAFETY: as above.
        let kevent = unsafe { std::mem::transmute::<*mut c_void, KeventFn>(find(c"kevent")?) };
        // SAFETY: no preconditions.
        let queue = unsafe { kqueue() };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { kevent, queue })
    }

    /// Adds a knote with `EV_CLEAR`.
    ///
    /// # Errors
    ///
    /// Fails as kevent(2) does.
    pub(crate) fn add(&self, fd: RawFd, filter: i16, fflags: u32, udata: u64) -> io::Result<()> {
        let ident = u64::try_from(fd).map_err(|_| io::ErrorKind::InvalidInput)?;
        let change = Kevent {
            ident,
            filter,
            flags: EV_ADD | EV_CLEAR,
            fflags,
            udata,
            ..Kevent::default()
        };
        // SAFETY: one change, no room for events.
        let done =
            unsafe { (self.kevent)(self.queue, &raw const change, 1, null_mut(), 0, null()) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits for events, without end when there is no `timeout`, and returns how many there are.
    ///
    /// # Errors
    ///
    /// Fails as kevent(2) does.
    pub(crate) fn wait(
        &self,
        events: &mut [Kevent],
        timeout: Option<timespec>,
    ) -> io::Result<usize> {
        let room = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
        let timeout = timeout.as_ref().map_or(null(), from_ref);
        // SAFETY: no changes, and as much room as the slice has.
        let count =
            unsafe { (self.kevent)(self.queue, null(), 0, events.as_mut_ptr(), room, timeout) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Kqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: nobody closes the queue.
        unsafe { BorrowedFd::borrow_raw(self.queue) }
    }
}
