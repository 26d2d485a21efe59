//! The calls of the system, and one call of the program with its buffers.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The caller of [`Call::new`]: its promises hold while the call exists. A count below 0 is taken as 0,
//!    and a null buffer as an empty one, so an `index` below [`Call::changes`] or [`Call::room`] is inside
//!    the array.
//! 2. Our own: changes are read only after [`Call::has_readable_changes`], and a timeout only from a page
//!    that could be read, or after the kernel has read it. A page that was memory once and is none any more
//!    ends the program (README, Limits), as a read of its own would.
//! 3. Our own ([`Layout`]): the structures are `Pod`: any bytes are a value of them, and none is padding.
//! 4. The real functions ([`Originals`]): they have the types of `<sys/event.h>`, read `nchanges`
//!    structures and write at most `nevents`, and check every pointer or are given none but live ones.
//! 5. The kernel (sigprocmask(2)): it checks the address of the set, and for a `how` that there is not
//!    changes nothing.

#![expect(
    unsafe_code,
    reason = "the program's buffers are raw pointers, and so are the arguments of the real calls"
)]

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::timespec;

use super::abi::{self, Event, Flavour, Kevent, Kevent64, KeventQos, Layout};
use crate::guard;

/// `int kevent(...)`
pub type KeventFn =
    unsafe extern "C" fn(c_int, *const Kevent, c_int, *mut Kevent, c_int, *const timespec) -> c_int;

/// `int kevent64(...)`
pub type Kevent64Fn = unsafe extern "C" fn(
    c_int,
    *const Kevent64,
    c_int,
    *mut Kevent64,
    c_int,
    c_uint,
    *const timespec,
) -> c_int;

/// `int kevent_qos(...)`
pub type KeventQosFn = unsafe extern "C" fn(
    c_int,
    *const KeventQos,
    c_int,
    *mut KeventQos,
    c_int,
    *mut c_void,
    *mut usize,
    c_uint,
) -> c_int;

/// The real functions. Where a system lacks one, a function that fails with ENOSYS stands for it.
#[derive(Clone, Copy, Debug)]
pub struct Originals {
    /// The real kevent.
    pub kevent: KeventFn,
    /// The real kevent64.
    pub kevent64: Kevent64Fn,
    /// The real kevent_qos.
    pub kevent_qos: KeventQosFn,
}

/// An error number of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub c_int);

impl Errno {
    /// Returns what the last failed call of this thread left behind.
    pub(crate) fn last() -> Self {
        Self(guard::errno())
    }

    /// Sets errno, which the program reads.
    pub fn set(self) {
        guard::set_errno(self.0);
    }
}

/// What a call has beside its buffers, as the program passed it.
#[derive(Clone, Copy, Debug)]
pub struct CallOptions {
    /// For kevent and kevent64: null waits without end.
    pub timeout: *const timespec,
    /// For kevent64 and kevent_qos.
    pub flags: c_uint,
    /// For kevent_qos.
    pub data_out: *mut c_void,
    /// For kevent_qos.
    pub data_available: *mut usize,
}

impl CallOptions {
    /// Makes the options of a call that waits as `timeout` says, and has no others.
    #[must_use]
    pub const fn waiting(timeout: *const timespec) -> Self {
        Self {
            timeout,
            flags: 0,
            data_out: ptr::null_mut(),
            data_available: ptr::null_mut(),
        }
    }

    pub(crate) fn is_immediate(&self) -> bool {
        self.flags & abi::KEVENT_FLAG_IMMEDIATE != 0
    }
}

/// One call of the program. The buffers may be the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Call<L> {
    kq: RawFd,
    changes: *const L,
    nchanges: c_int,
    events: *mut L,
    nevents: c_int,
    options: CallOptions,
}

impl<L: Layout + Real> Call<L> {
    /// Takes over the arguments of the program.
    ///
    /// # Safety
    ///
    /// While the call exists:
    /// * `changes` is null or has `nchanges` readable structures, or is no memory at all,
    /// * `events` is null or has `nevents` writable ones,
    /// * the pointers in `options` are what the real function may be given.
    #[must_use]
    pub unsafe fn new(
        kq: RawFd,
        (changes, nchanges): (*const L, c_int),
        (events, nevents): (*mut L, c_int),
        options: CallOptions,
    ) -> Self {
        Self {
            kq,
            changes,
            nchanges,
            events,
            nevents,
            options,
        }
    }

    pub(crate) fn kq(&self) -> RawFd {
        self.kq
    }

    pub(crate) fn options(&self) -> &CallOptions {
        &self.options
    }

    /// Returns the number of changes: none for a null pointer, about which the real call complains.
    #[inline]
    pub(crate) fn changes(&self) -> usize {
        match self.changes.is_null() {
            true => 0,
            false => usize::try_from(self.nchanges).unwrap_or(0),
        }
    }

    /// Returns whether the changelist can be read. Otherwise the real call complains, after the changes before
    /// the bad page.
    pub(crate) fn has_readable_changes(&self) -> bool {
        let start = self.changes.addr();
        let Some(end) = self
            .changes()
            .checked_mul(size_of::<L>())
            .and_then(|len| start.checked_add(len))
        else {
            return false;
        };
        let mut at = start;
        while at < end {
            if !is_known_readable(at) {
                return false;
            }
            at = (at | (SMALLEST_PAGE - 1)).saturating_add(1);
        }
        true
    }

    /// Returns whether the call waits, and not for ever. It may return true for a call that does not wait; then
    /// the clock is read without need.
    #[inline]
    pub(crate) fn waits_for_a_time(&self) -> bool {
        let timeout = self.options.timeout;
        if timeout.is_null() {
            return false;
        }
        let at = timeout.addr();
        let is_in_one_page = at % SMALLEST_PAGE <= SMALLEST_PAGE - size_of::<timespec>();
        if !is_in_one_page || !is_known_readable(at) {
            return true;
        }
        // SAFETY: 1 and 2: all of it lies in a page that could be read; any integers are a timespec, and no
        // alignment is assumed.
        let timeout = unsafe { timeout.read_unaligned() };
        timeout.tv_sec != 0 || timeout.tv_nsec != 0
    }

    /// Returns the room for events.
    pub(crate) fn room(&self) -> usize {
        match self.events.is_null() {
            true => 0,
            false => usize::try_from(self.nevents).unwrap_or(0),
        }
    }

    /// Returns the change number `index`.
    #[inline]
    pub(crate) fn change(&self, index: usize) -> Option<L> {
        if index >= self.changes() {
            return None;
        }
        // SAFETY: 1: `index` is inside the changelist.
        let at = unsafe { self.changes.add(index) };
        // SAFETY: 1, 2 and 3: readable, a value whatever is there, and no alignment is assumed.
        Some(unsafe { at.read_unaligned() })
    }

    /// Returns the event number `index` of those that a call has filled in.
    pub(crate) fn event(&self, index: usize) -> Option<L> {
        if index >= self.room() {
            return None;
        }
        // SAFETY: inside the eventlist by the contract of `new`.
        let at = unsafe { self.events.add(index) };
        // SAFETY: 1 and 3: readable, because it is writable and a call has filled it in, a value whatever is
        // there, and no alignment is assumed.
        Some(unsafe { at.read_unaligned() })
    }

    /// Writes the event number `index`, if there is room for it.
    pub(crate) fn put(&mut self, index: usize, event: L) {
        if index >= self.room() {
            return;
        }
        // SAFETY: inside the eventlist by the contract of `new`.
        let at = unsafe { self.events.add(index) };
        // SAFETY: 1: writable, and no alignment is assumed.
        unsafe { at.write_unaligned(event) };
    }

    /// Makes the call as the program made it. A result of -1 leaves errno behind.
    #[inline]
    pub(crate) fn unchanged(&self, originals: &Originals) -> c_int {
        let changes = (self.changes, self.nchanges);
        let events = (self.events, self.nevents);
        // SAFETY: 1 and 4: the program's own arguments, which may go to the real function.
        unsafe { L::real(originals, self.kq, changes, events, &self.options) }
    }

    /// Makes the call with changes and options as given; or, with `again`, without changes and with these
    /// options.
    pub(crate) fn wait(
        &self,
        originals: &Originals,
        again: Option<&CallOptions>,
    ) -> Result<usize, Errno> {
        let Some(options) = again else {
            return count(self.unchanged(originals));
        };
        let events = (self.events, self.nevents);
        // SAFETY: 1 and 4: no changes, the program's own eventlist, and in `options` its own pointers or a
        // timeout of ours that lives in the caller's frame.
        count(unsafe { L::real(originals, self.kq, (ptr::null(), 0), events, options) })
    }

    /// Has the kernel check descriptor, flavour and timeout, and do nothing.
    pub(crate) fn check(&self, originals: &Originals) -> Result<(), Errno> {
        let none = (ptr::null_mut(), 0);
        // SAFETY: 1 and 4: no changes, no room, and the program's own options.
        let result = unsafe { L::real(originals, self.kq, (ptr::null(), 0), none, &self.options) };
        count(result).map(drop)
    }

    /// Returns the timeout. The kernel has accepted it before.
    pub(crate) fn timeout(&self) -> Option<timespec> {
        if self.options.timeout.is_null() {
            return None;
        }
        // SAFETY: 1 and 2: not null, and the kernel has read it in this call; no alignment is assumed.
        Some(unsafe { self.options.timeout.read_unaligned() })
    }
}

/// The size of a page; no system has smaller ones.
const SMALLEST_PAGE: usize = 4096;

/// Pages that could be read once. This saves a system call in each call with changes, at a price: a page
/// that is passed again and is no memory any more ends the program.
static READABLE: [AtomicUsize; 64] = [const { AtomicUsize::new(usize::MAX) }; 64];

/// Returns whether what is at an address can be read, or could be in an earlier call.
fn is_known_readable(at: usize) -> bool {
    let page = at / SMALLEST_PAGE;
    let Some(slot) = READABLE.get(page % READABLE.len()) else {
        return is_readable(at);
    };
    // Relaxed: it only permits a read of the program's own memory.
    if slot.load(Ordering::Relaxed) == page {
        return true;
    }
    let is_readable = is_readable(at);
    if is_readable {
        slot.store(page, Ordering::Relaxed);
    }
    is_readable
}

/// Returns whether the 8 bytes at an address can be read: sigprocmask(2) copies the set before it looks
/// at a `how` that there is not (`linux: kernel/signal.c`, `xnu: bsd/kern/kern_sig.c`).
fn is_readable(at: usize) -> bool {
    let errno = Errno::last();
    let set = ptr::with_exposed_provenance::<libc::sigset_t>(at);
    let is_bad = block_no_signals(set) != 0 && Errno::last() == Errno(libc::EFAULT);
    errno.set();
    !is_bad
}

/// A `how` of sigprocmask(2) that there is not.
const NO_HOW: c_int = c_int::MAX;

/// Asks the kernel by system call: libc's function reads the set by itself.
#[cfg(target_os = "linux")]
fn block_no_signals(set: *const libc::sigset_t) -> c_long {
    // SAFETY: 5, and the other arguments are numbers: no old set, and the size of a kernel's set.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, NO_HOW, set, 0_usize, 8_usize) }
}

/// Asks the kernel by libc, whose function hands the set on unread.
#[cfg(not(target_os = "linux"))]
fn block_no_signals(set: *const libc::sigset_t) -> c_long {
    // SAFETY: 5: the old set is null, so nothing is written.
    unsafe { libc::sigprocmask(NO_HOW, set, ptr::null_mut()) }.into()
}

fn count(result: c_int) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}

/// Applies one change to the kernel's queue. It does not wait and fetches nothing.
pub(crate) fn change<L: Real>(originals: &Originals, kq: RawFd, change: &L) -> Result<(), Errno> {
    let options = CallOptions::waiting(ptr::null());
    // SAFETY: 4: one live change, no room, and options without pointers.
    let result = unsafe {
        L::real(
            originals,
            kq,
            (ptr::from_ref(change), 1),
            (ptr::null_mut(), 0),
            &options,
        )
    };
    count(result).map(drop)
}

/// Applies one change that carries EV_RECEIPT. Returns the receipt as the kernel writes it.
pub(crate) fn change_with_receipt<L: Layout + Real>(
    originals: &Originals,
    kq: RawFd,
    change: &L,
) -> Result<L, Errno> {
    let options = CallOptions::waiting(ptr::null());
    let mut receipt = L::default();
    // SAFETY: 4: one live change, and live room for one event, which the receipt takes: nothing is
    // fetched and nothing waits.
    let result = unsafe {
        let room = (&raw mut receipt, 1);
        L::real(originals, kq, (ptr::from_ref(change), 1), room, &options)
    };
    count(result).map(|_| receipt)
}

/// Applies one change through the family of calls that the queue accepts.
pub(crate) fn change_as(
    originals: &Originals,
    flavour: Flavour,
    kq: RawFd,
    event: &Event,
) -> Result<(), Errno> {
    match flavour {
        Flavour::Legacy => change(originals, kq, &Kevent::from_event(event)),
        Flavour::Modern => change(originals, kq, &Kevent64::from_event(event)),
    }
}

/// A structure and the real function that takes it.
pub trait Real: Sized {
    /// Calls the real function.
    ///
    /// # Safety
    ///
    /// * What the man page of the real function asks of its arguments.
    unsafe fn real(
        originals: &Originals,
        kq: RawFd,
        changes: (*const Self, c_int),
        events: (*mut Self, c_int),
        options: &CallOptions,
    ) -> c_int;
}

impl Real for Kevent {
    #[inline]
    unsafe fn real(
        originals: &Originals,
        kq: RawFd,
        changes: (*const Self, c_int),
        events: (*mut Self, c_int),
        options: &CallOptions,
    ) -> c_int {
        let Originals { kevent, .. } = originals;
        // SAFETY: 4: by the promise of this function's caller, for the function of this structure.
        unsafe {
            kevent(
                kq,
                changes.0,
                changes.1,
                events.0,
                events.1,
                options.timeout,
            )
        }
    }
}

impl Real for Kevent64 {
    #[inline]
    unsafe fn real(
        originals: &Originals,
        kq: RawFd,
        (changes, nchanges): (*const Self, c_int),
        (events, nevents): (*mut Self, c_int),
        options: &CallOptions,
    ) -> c_int {
        let Originals { kevent64, .. } = originals;
        let (flags, timeout) = (options.flags, options.timeout);
        // SAFETY: 4: by the promise of this function's caller, for the function of this structure.
        unsafe { kevent64(kq, changes, nchanges, events, nevents, flags, timeout) }
    }
}

impl Real for KeventQos {
    #[inline]
    unsafe fn real(
        originals: &Originals,
        kq: RawFd,
        (changes, nchanges): (*const Self, c_int),
        (events, nevents): (*mut Self, c_int),
        options: &CallOptions,
    ) -> c_int {
        let Originals { kevent_qos, .. } = originals;
        let (out, available) = (options.data_out, options.data_available);
        // SAFETY: 4: by the promise of this function's caller, for the function of this structure.
        unsafe {
            kevent_qos(
                kq,
                changes,
                nchanges,
                events,
                nevents,
                out,
                available,
                options.flags,
            )
        }
    }
}
