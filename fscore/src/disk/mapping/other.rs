//! Systems on which the files of a store are not mapped.

use std::io::{self, IoSlice};
use std::ops::Range;

use memmap2::{MmapMut, MmapOptions};
use rustix::fd::BorrowedFd;

/// A range of a file that is mapped for writing: there is none.
#[derive(Debug)]
pub(crate) enum Window {}

impl Window {
    /// Maps nothing.
    pub(crate) fn map(_: BorrowedFd<'_>, _: Range<u64>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn has(&self, _: &Range<u64>) -> bool {
        match *self {}
    }

    pub(crate) fn write(&mut self, _: &[IoSlice<'_>], _: u64) -> bool {
        match *self {}
    }
}

pub(crate) fn page_size() -> usize {
    4096
}

/// Returns zeroed memory, which takes room when it is written.
pub(crate) fn anonymous(len: usize) -> io::Result<MmapMut> {
    MmapOptions::new().len(len).no_reserve_swap().map_anon()
}

/// Leaves it to the system to give pages when they are written.
pub(crate) fn populate(_: &MmapMut, _: Range<usize>) {}

/// Leaves the pages of a range where they are: they are used again.
pub(crate) fn discard(_: &mut MmapMut, _: Range<usize>) -> io::Result<()> {
    Ok(())
}
