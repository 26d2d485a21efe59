//! Whether an object lies on a mount of the daemon.
//!
//! Almost every watch of almost every program lies elsewhere. To find that out costs one statx, for a
//! disk's filesystem a look at its device number, and for others a look into a small table.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::config;
use crate::connection;
use crate::platform::seconds;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;

/// The object that a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    pub(crate) st_dev: u64,
    pub(crate) st_ino: u64,
    /// The mount, by a number that is not used twice (Linux 6.8), or not at the same time.
    mount: u64,
}

/// Returns whether the daemon serves the mount of an object, or `None` when there is no daemon that answers.
fn is_served(object: Object, is_fuse: impl FnOnce() -> bool) -> Option<bool> {
    if !may_be_served(object) {
        return Some(false);
    }
    let cached = Cached::of(object);
    if let Some(answer) = cached.answer() {
        return Some(answer);
    }
    let is_candidate = config().any_filesystem() || is_fuse();
    if !is_candidate {
        cached.remember(false, Until::End);
        return Some(false);
    }
    // Without a daemon, no answer is remembered: one may start later.
    let is_ours = connection::mounts()?.contains(&object.st_dev);
    cached.remember(is_ours, if is_ours { Until::End } else { Until::Soon });
    Some(is_ours)
}

/// How long an answer holds: not for long when the daemon does not know the mount, because it may be about
/// to make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    End,
    Soon,
}

const SLOTS: usize = 16;

/// A mount and the answer for it in one word (63 bits of a hash are as good as the mount), and until
/// when the answer holds.
static ANSWERS: [(AtomicU64, AtomicU64); SLOTS] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; SLOTS];

/// The place in [`ANSWERS`] for the mount of an object.
#[derive(Clone, Copy, Debug)]
struct Cached {
    key: u64,
    words: Option<&'static (AtomicU64, AtomicU64)>,
}

impl Cached {
    fn of(object: Object) -> Self {
        let mixed = (object.mount ^ object.st_dev.rotate_left(32))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            | 1 << 63;
        let index = usize::try_from(mixed >> 56).unwrap_or(0) % SLOTS;
        Self {
            key: mixed & !1,
            words: ANSWERS.get(index),
        }
    }

    fn answer(self) -> Option<bool> {
        let (word, until) = self.words?;
        // Acquire: pairs with the last store in `remember`; the end belongs to this answer.
        let word = word.load(Ordering::Acquire);
        let is_fresh = word & !1 == self.key && seconds() < until.load(Ordering::Relaxed);
        is_fresh.then_some(word & 1 == 1)
    }

    fn remember(self, is_served: bool, until: Until) {
        let Some((word, end)) = self.words else {
            return;
        };
        let until = match until {
            Until::End => u64::MAX,
            Until::Soon => seconds() + 2,
        };
        // No other thread takes the old answer for the new mount meanwhile.
        word.store(0, Ordering::Release);
        end.store(until, Ordering::Relaxed);
        word.store(self.key | u64::from(is_served), Ordering::Release);
    }
}
