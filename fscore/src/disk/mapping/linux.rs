//! Linux: mapped memory. This is the only file of the crate with `unsafe` code.
//!
//! The contracts that the proofs below name:
//!
//! 1. A [`Window`] owns its mapping, and only [`Window::write`] touches the memory. That writes
//!    through a pointer and neither reads nor makes a reference, so it does not matter what other
//!    processes, or other mappings of the file, write there meanwhile.
//! 2. The kernel raises SIGBUS when it cannot give a page of a mapped file: the file has lost its
//!    end, the disk is full or has failed. While a thread copies, [`COPYING`] of that thread is the
//!    range of the mapping, which the window keeps mapped, and at all other times it is empty. So an
//!    address in the range of the thread that is interrupted lies in a window that this thread
//!    alone uses.
//! 3. The handler of the signal is async-signal-safe: it reads and writes atomics of its own thread,
//!    which need no initialization and no drop, and atomics that were set before it was installed;
//!    it calls mmap(2), sigaction(2), raise(3) and the handler that was there before; and it neither
//!    allocates nor locks.
//! 4. Memory of [`anonymous`] is the process's alone, and any bytes are a value of it.
#![expect(
    unsafe_code,
    reason = "writes to mapped files, and handles the signal by which the kernel refuses a page"
)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::compiler_fence;

use libc::{c_int, c_void, siginfo_t};
use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fd::{AsRawFd as _, BorrowedFd};

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, thread_local};

/// A range of a file that is mapped for writing.
#[derive(Debug)]
pub(crate) struct Window {
    map: MmapRaw,
    /// Where the range begins in the file.
    at: u64,
}

impl Window {
    /// Maps a range of a file. Both ends are multiples of [`page_size`].
    ///
    /// # Errors
    ///
    /// Those of mmap(2) and sigaction(2).
    pub(crate) fn map(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<Self> {
        install_handler()?;
        let len = usize::try_from(range.end.saturating_sub(range.start));
        let len = len.map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut options = MmapOptions::new();
        let map = options.offset(range.start).len(len);
        Ok(Self {
            map: map.map_raw(file.as_raw_fd())?,
            at: range.start,
        })
    }

    /// Returns whether a range of the file lies in it.
    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        let end = self.at + self.map.len() as u64;
        self.at <= range.start && range.start <= range.end && range.end <= end
    }

    /// Writes all of the parts at an offset of the file, one after the other; returns whether they
    /// are there. They are not if a part of their range is not mapped, and then nothing was written,
    /// or if the kernel refuses a page, and then any of the bytes may have been written.
    pub(crate) fn write(&mut self, parts: &[IoSlice<'_>], at: u64) -> bool {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let start = at.checked_sub(self.at).map(usize::try_from);
        let Some(Ok(start)) = start.filter(|_| self.has(&(at..at + len))) else {
            return false;
        };
        let base = self.map.as_mut_ptr();
        let range = base.addr()..base.addr() + self.map.len();
        COPYING.with(|copying| {
            copying.while_copying(range, || {
                let mut done = start;
                for part in parts {
                    // SAFETY: contract 1: `done` is at most the length of the mapping, because the
                    // parts end in it.
                    let target = unsafe { base.add(done) };
                    // SAFETY: contract 1: so many bytes of the mapping follow, and the source is no
                    // part of it, because there are no references into it.
                    unsafe { ptr::copy_nonoverlapping(part.as_ptr(), target, part.len()) };
                    done += part.len();
                }
            })
        })
    }
}

/// The copy that a thread makes into a mapped file, for the handler that interrupts it. What one
/// thread does is in order for its own handler, if only the compiler leaves it so: Relaxed and
/// fences for the compiler are enough.
struct Copying {
    start: AtomicUsize,
    /// Zero if there is no copy.
    end: AtomicUsize,
    was_refused: AtomicBool,
}

thread_local! {
    static COPYING: Copying = const {
        Copying {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            was_refused: AtomicBool::new(false),
        }
    };
}

impl Copying {
    /// Returns whether the kernel gave all pages.
    fn while_copying(&self, range: Range<usize>, copy: impl FnOnce()) -> bool {
        self.was_refused.store(false, Ordering::Relaxed);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        copy();
        compiler_fence(Ordering::SeqCst);
        self.end.store(0, Ordering::Relaxed);
        !self.was_refused.load(Ordering::Relaxed)
    }

    fn has(&self, address: usize) -> bool {
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        range.contains(&address)
    }
}

/// What the process did at SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler, once a process. A program that installs another one later, without calling
/// this one, ends at a page that the kernel refuses.
fn install_handler() -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if BEFORE.get().is_some() {
        return Ok(());
    }
    let _guard = ONE_AT_A_TIME.lock();
    if BEFORE.get().is_some() {
        return Ok(());
    }
    page_size();
    let before = exchange_handler(None)?;
    // A page that is refused between the two calls finds the handler, and not yet what was before.
    let mut action = before;
    action.sa_sigaction = on_refused_page as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    exchange_handler(Some(&action))?;
    BEFORE.get_or_init(|| before);
    Ok(())
}

fn exchange_handler(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: contract 3: the new action is none, or the handler's; the old one is written.
    let result = unsafe { libc::sigaction(libc::SIGBUS, new, old.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was written, and was zeros before, which are a value too.
    Ok(unsafe { old.assume_init() })
}

/// Puts an empty page of memory in the place of one that the kernel refuses to a copy, so that the
/// copy ends and says so. Any other SIGBUS is none of ours.
extern "C" fn on_refused_page(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo_t, to this handler alone.
    let info_of_signal = unsafe { &*info };
    // SAFETY: for this signal it has an address; if a process has sent it, any number, which lies in
    // no copy of a thread that is not just copying.
    let address = unsafe { info_of_signal.si_addr() }.addr();
    let is_replaced = COPYING.with(|copying| {
        let is_ours = copying.has(address) && replace_page(address);
        if is_ours {
            copying.was_refused.store(true, Ordering::Relaxed);
        }
        is_ours
    });
    if !is_replaced {
        pass_on(signal, info, context);
    }
}

/// Maps memory over the page of an address, and returns whether that worked.
fn replace_page(address: usize) -> bool {
    let page = PAGE_SIZE.load(Ordering::Relaxed);
    let start = ptr::without_provenance_mut(address - address % page);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: contract 2: the page lies in the mapping of a window, which only the interrupted copy
    // uses, and that goes on in the new page. The window unmaps it with the rest.
    let mapped = unsafe { libc::mmap(start, page, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

/// Does what the process did before; by default it ends.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // A page that is refused again, or the raised signal, ends the process once this returns.
        // SAFETY: contract 3: both are async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: as above.
        unsafe { libc::raise(signal) };
    } else if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) {
        type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
        // SAFETY: sigaction(2) returned it as a handler of this type.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: sigaction(2) returned it as a handler of this type.
        let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
        handler(signal);
    }
}

/// Returns how many bytes the kernel maps at a time.
pub(crate) fn page_size() -> usize {
    let known = PAGE_SIZE.load(Ordering::Relaxed);
    if known > 0 {
        return known;
    }
    // SAFETY: the call takes no pointer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let size = usize::try_from(size).ok().filter(|size| *size > 0);
    let size = size.unwrap_or(4096);
    PAGE_SIZE.store(size, Ordering::Relaxed);
    size
}

/// Returns zeroed memory, which takes room when it is written. A child of the process does not have
/// it: the child would keep what the process gives back.
pub(crate) fn anonymous(len: usize) -> io::Result<MmapMut> {
    let mut options = MmapOptions::new();
    let memory = options.len(len).no_reserve_swap().map_anon()?;
    memory.advise(Advice::DontFork)?;
    Ok(memory)
}

/// Has the kernel give the pages of a range at once, which takes less time than one at a time when
/// they are written. Nothing depends on it: before Linux 5.14 the kernel refuses.
pub(crate) fn populate(memory: &MmapMut, range: Range<usize>) {
    let _unused: io::Result<()> =
        memory.advise_range(Advice::PopulateWrite, range.start, range.end - range.start);
}

/// Gives the pages back that lie wholly in a range of [`anonymous`] memory. Their bytes are zero
/// from then on.
pub(crate) fn discard(memory: &mut MmapMut, range: Range<usize>) -> io::Result<()> {
    let page = page_size();
    let start = range.start.next_multiple_of(page);
    let end = range.end.min(memory.len()) / page * page;
    if start >= end {
        return Ok(());
    }
    // SAFETY: contract 4, and nobody looks at the bytes meanwhile: the reference is exclusive.
    unsafe { memory.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) }
}
