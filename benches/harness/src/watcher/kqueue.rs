//! One knote for each file, in whatever kqueue is preloaded.
#![expect(
    unsafe_code,
    reason = "calls functions that are found when the program runs"
)]

use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr::{from_ref, null};

use nix::libc::{RTLD_DEFAULT, dlsym, timespec};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Heard;
use crate::model::Failure;

/// `struct kevent` of macOS.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Kevent {
    ident: u64,
    filter: i16,
    flags: u16,
    fflags: u32,
    data: i64,
    udata: u64,
}

const EVFILT_VNODE: i16 = -4;
const EV_ADD: u16 = 0x1;
const EV_CLEAR: u16 = 0x20;
/// Every `NOTE_*` of a vnode.
const NOTES: u32 = 0x7f;
const END: u64 = u64::MAX;

type KqueueFn = unsafe extern "C" fn() -> c_int;
type KeventFn =
    unsafe extern "C" fn(c_int, *const Kevent, c_int, *mut Kevent, c_int, *const timespec) -> c_int;

pub(super) struct KqueueReader {
    kevent: KeventFn,
    queue: RawFd,
    events: Vec<Kevent>,
    _files: Vec<File>,
}

fn find(name: &CStr) -> Result<*mut c_void, Failure> {
    // SAFETY: a C string, and the handle that stands for all libraries.
    let found = unsafe { dlsym(RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        return Err(format!("no library here has {}", name.to_string_lossy()).into());
    }
    Ok(found)
}

impl KqueueReader {
    pub(super) fn open(root: &Path, files: u32) -> Result<Self, Failure> {
        // SAFETY: the function of that name has this type.
        let kqueue = unsafe { std::mem::transmute::<*mut c_void, KqueueFn>(find(c"kqueue")?) };
        // SAFETY: as above.
        let kevent = unsafe { std::mem::transmute::<*mut c_void, KeventFn>(find(c"kevent")?) };
        // SAFETY: no preconditions.
        let queue = unsafe { kqueue() };
        if queue < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let mut reader = Self {
            kevent,
            queue,
            events: vec![Kevent::default(); 512],
            _files: Vec::new(),
        };
        for number in 0..files {
            reader.watch(&root.join(format!("f{number}")), number.into())?;
        }
        reader.watch(&root.join("end"), END)?;
        Ok(reader)
    }

    fn watch(&mut self, path: &Path, udata: u64) -> Result<(), Failure> {
        let file = File::open(path)?;
        let change = Kevent {
            ident: u64::try_from(file.as_raw_fd())?,
            filter: EVFILT_VNODE,
            flags: EV_ADD | EV_CLEAR,
            fflags: NOTES,
            udata,
            ..Kevent::default()
        };
        // SAFETY: one change, no room for events.
        let done = unsafe {
            (self.kevent)(
                self.queue,
                &raw const change,
                1,
                null::<Kevent>().cast_mut(),
                0,
                null(),
            )
        };
        if done < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        self._files.push(file);
        Ok(())
    }

    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        // SAFETY: the queue is open as long as `self` is.
        let queue = unsafe { BorrowedFd::borrow_raw(self.queue) };
        poll(
            &mut [PollFd::new(queue, PollFlags::POLLIN)],
            PollTimeout::NONE,
        )?;
        Ok(())
    }

    pub(super) fn take(&mut self, hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
        let at_once = timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let room = c_int::try_from(self.events.len())?;
        let events = self.events.as_mut_ptr();
        // SAFETY: the vector has that much room.
        let count =
            unsafe { (self.kevent)(self.queue, null(), 0, events, room, from_ref(&at_once)) };
        let count = usize::try_from(count).map_err(|_| std::io::Error::last_os_error())?;
        for event in self.events.iter().take(count) {
            hear(match u32::try_from(event.udata) {
                Ok(index) => Heard::File(index),
                Err(_) => Heard::End,
            });
        }
        Ok(())
    }
}
