//! The descriptors that the shim looks after: one word for each number.
//!
//! The hooks look here first, in assembly, and jump to the original when the word is 0.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors below this number are looked after: 512 KiB of zeros, of which most are never touched.
pub(crate) const LEN: usize = 65_536;

/// The word of a descriptor: 0 for one that the shim has nothing to do with.
pub(crate) static TABLE: [AtomicUsize; LEN] = [const { AtomicUsize::new(0) }; LEN];

/// Whose a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The program's, and the shim has nothing to do with it.
    Foreign,
    /// One that the shim opened for itself. The program does not know it.
    Hidden,
    /// A kqueue with a watch on AgentFS, or a file that such a watch hangs on.
    Kqueue,
    /// An inotify instance with a watch on AgentFS: the address of its state.
    Inotify(usize),
}

const HIDDEN: usize = 1;
const KQUEUE: usize = 2;

impl Owner {
    fn word(self) -> usize {
        match self {
            Self::Foreign => 0,
            Self::Hidden => HIDDEN,
            Self::Kqueue => KQUEUE,
            Self::Inotify(address) => address,
        }
    }

    fn of(word: usize) -> Self {
        match word {
            0 => Self::Foreign,
            HIDDEN => Self::Hidden,
            KQUEUE => Self::Kqueue,
            address => Self::Inotify(address),
        }
    }
}

fn slot(fd: RawFd) -> Option<&'static AtomicUsize> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// Returns whose a descriptor is.
pub(crate) fn get(fd: RawFd) -> Owner {
    // Acquire: pairs with `set` and `take`; the state behind the address is complete.
    Owner::of(slot(fd).map_or(0, |slot| slot.load(Ordering::Acquire)))
}

/// Notes whose a descriptor is. Returns false when its number is too large.
pub(crate) fn set(fd: RawFd, owner: Owner) -> bool {
    slot(fd)
        .map(|slot| slot.store(owner.word(), Ordering::Release))
        .is_some()
}

/// Forgets a descriptor and returns whose it was.
pub(crate) fn take(fd: RawFd) -> Owner {
    let owner = get(fd);
    let is_taken = slot(fd).is_some_and(|slot| {
        slot.compare_exchange(owner.word(), 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    });
    if is_taken { owner } else { Owner::Foreign }
}

/// Returns the hidden descriptors from `first` to `last`.
pub(crate) fn hidden_between(first: u32, last: u32) -> impl Iterator<Item = u32> {
    numbers(first, last)
        .filter(|(_, word)| *word == HIDDEN)
        .map(|(fd, _)| fd)
}

/// Returns the program's descriptors from `first` to `last` that the shim looks after.
pub(crate) fn owned_between(first: u32, last: u32) -> impl Iterator<Item = u32> {
    numbers(first, last)
        .filter(|(_, word)| *word > HIDDEN)
        .map(|(fd, _)| fd)
}

fn numbers(first: u32, last: u32) -> impl Iterator<Item = (u32, usize)> {
    (first..=last).map_while(|fd| {
        let slot = TABLE.get(usize::try_from(fd).ok()?)?;
        Some((fd, slot.load(Ordering::Acquire)))
    })
}
