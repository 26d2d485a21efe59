//! An allocator that counts the bytes that are in use.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether to count: the counter is shared, and timings should not wait for it.
static COUNTING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a counter.
#[derive(Debug)]
pub struct Counting;

/// Returns how many bytes more are in use after `make` than before, and what it made.
pub(crate) fn growth<T>(make: impl FnOnce() -> T) -> (usize, T) {
    COUNTING.store(true, Ordering::Relaxed);
    let before = IN_USE.load(Ordering::Relaxed);
    let made = make();
    let after = IN_USE.load(Ordering::Relaxed);
    COUNTING.store(false, Ordering::Relaxed);
    (after.wrapping_sub(before), made)
}

fn add(size: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        IN_USE.fetch_add(size, Ordering::Relaxed);
    }
}

// SAFETY: every method passes its arguments to the system's allocator and returns what that returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller promises what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(layout.size().wrapping_neg());
        // SAFETY: the caller promises what `dealloc` asks for, and the block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller promises what `alloc_zeroed` asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size.wrapping_sub(layout.size()));
        // SAFETY: the caller promises what `realloc` asks for, and the block came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
