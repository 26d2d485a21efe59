//! Every memory ordering of the ring, each under a label with its partner.
//!
//! Six words of a ring are shared. Each has one writer at a time, or is changed by compare and exchange:
//!
//! | word | writer | says |
//! |---|---|---|
//! | `tail` | producer | everything before it is published |
//! | `refill_at` | producer | ring back once `head` has passed this |
//! | `rung` | producer | the doorbell was rung when the tail was here |
//! | `head` | claimed consumer, or whoever takes a record | everything before it is free |
//! | `wake_at` | claimed consumer, or whoever arms | ring once `tail` has passed this |
//! | `owner` | whoever claims | who the consumer is |
//!
//! A request channel has three more: `tail` and `lock`, written by whoever holds the lock, and `head`,
//! written by the daemon.
//!
//! Two kinds of edges order them. A *hand-over* is a Release store read by an Acquire load: what the
//! writer did before is visible to the reader after. A *crossing* is two parties that each write
//! one word and then read the other's; neither may miss the other, which no pair of Release and
//! Acquire gives (both stores may still sit in store buffers while both loads run), so each side
//! puts a sequentially consistent fence between its store and its load: of two such fences one
//! comes first in the single total order, and the side with the later one sees the other's store.
//!
//! Under `--cfg loom` the environment variable `RING_MUTANT` weakens one of them, by its name in
//! [`MUTANTS`]; the models of `agentfs-loom-tests` must then fail. In any other build the functions
//! below are constants.

use crate::sync::{Ordering, fence};

/// What `RING_MUTANT` may name: every ordering is weakened to Relaxed, every fence dropped.
pub const MUTANTS: &[&str] = &[
    "publish",
    "observe_fence",
    "free",
    "reuse",
    "claim",
    "unclaim",
    "publish_fence",
    "arm_fence",
    "release_fence",
    "refill_fence",
    "unread_fence",
    "take",
    "follow",
    "recheck_fence",
    "take_blindly",
    "arm_backwards",
    "request_publish",
    "request_observe",
    "request_free",
    "request_reuse",
    "request_lock",
    "request_unlock",
    "request_fence",
    "look_fence",
];

#[cfg(not(loom))]
const fn weakened(_name: &str) -> bool {
    false
}

#[cfg(loom)]
fn weakened(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN
        .get_or_init(|| std::env::var("RING_MUTANT").ok())
        .as_deref()
        == Some(name)
}

/// Returns whether a statement is to be left out or replaced: the mutants that are no orderings.
#[cfg(not(loom))]
pub(crate) const fn is_mutant(_name: &str) -> bool {
    false
}

/// Returns whether a statement is to be left out or replaced: the mutants that are no orderings.
#[cfg(loom)]
pub(crate) fn is_mutant(name: &str) -> bool {
    weakened(name)
}

fn unless_weakened(name: &str, ordering: Ordering) -> Ordering {
    if weakened(name) {
        Ordering::Relaxed
    } else {
        ordering
    }
}

fn fence_unless_dropped(name: &str) {
    if !weakened(name) {
        fence(Ordering::SeqCst);
    }
}

/// ORDERING\[publish\]: the producer's store of `tail`. Release: the record bytes and headers
/// written before are visible to whoever reads this tail before FENCE\[observe\].
#[inline]
pub(crate) fn publish() -> Ordering {
    unless_weakened("publish", Ordering::Release)
}

/// FENCE\[observe\]: between the consumer's load of `tail` and its reads of records. Acquire: pairs with
/// ORDERING\[publish\]. It is a fence and no Acquire load, because the consumer maps the tail read-only, where the
/// language promises Relaxed loads only (the standard library's atomics, "Atomic accesses to read-only
/// memory").
#[inline]
pub(crate) fn observe_fence() {
    if !weakened("observe_fence") {
        fence(Ordering::Acquire);
    }
}

/// ORDERING\[free\]: the consumer's store of `head`. Release: its reads of the records before come
/// before the producer, having seen this head with ORDERING\[reuse\], writes over them.
#[inline]
pub(crate) fn free() -> Ordering {
    unless_weakened("free", Ordering::Release)
}

/// ORDERING\[reuse\]: the producer's load of `head` before it writes over freed bytes. Acquire:
/// pairs with ORDERING\[free\].
#[inline]
pub(crate) fn reuse() -> Ordering {
    unless_weakened("reuse", Ordering::Acquire)
}

/// ORDERING\[claim\]: the compare-and-swap that makes somebody the consumer. Acquire: pairs with
/// ORDERING\[unclaim\] of the consumer before, so that the new one starts at its head and
/// everything the old one read was read before.
#[inline]
pub(crate) fn claim() -> Ordering {
    unless_weakened("claim", Ordering::Acquire)
}

/// ORDERING\[unclaim\]: the store that ends a claim. Release: pairs with ORDERING\[claim\].
#[inline]
pub(crate) fn unclaim() -> Ordering {
    unless_weakened("unclaim", Ordering::Release)
}

/// FENCE\[publish\]: between the producer's store of `tail` and its load of `wake_at`. Crosses
/// FENCE\[arm\]: either the producer sees that the consumer sleeps, or the consumer sees the record.
#[inline]
pub(crate) fn publish_fence() {
    fence_unless_dropped("publish_fence");
}

/// FENCE\[arm\]: between the consumer's store of `wake_at` and its second look at `tail`. Crosses
/// FENCE\[publish\].
#[inline]
pub(crate) fn arm_fence() {
    fence_unless_dropped("arm_fence");
}

/// FENCE\[release\]: between the consumer's store of `head` and what it does next. Crosses
/// FENCE\[refill\] (its load of `refill_at`: either it sees the request, or the producer sees the
/// space) and FENCE\[unread\] (whatever the program looks at once it holds the event: either it
/// sees the change whose event was left out, or the producer sees that the record was read).
#[inline]
pub(crate) fn release_fence() {
    fence_unless_dropped("release_fence");
}

/// FENCE\[refill\]: between the producer's store of `refill_at` and its second look at `head`.
/// Crosses FENCE\[release\].
#[inline]
pub(crate) fn refill_fence() {
    fence_unless_dropped("refill_fence");
}

/// FENCE\[unread\]: between a change, made before the call, and the producer's look at `head` that
/// decides whether an unread record already covers it. Crosses FENCE\[release\].
#[inline]
pub(crate) fn unread_fence() {
    fence_unless_dropped("unread_fence");
}

/// ORDERING\[take\]: the compare-and-swap that moves `head` behind a record that a reader has copied. Release:
/// its reads of the record come before the producer, having seen this head with ORDERING\[reuse\], writes
/// over it. Pairs with ORDERING\[follow\] and FENCE\[recheck\] of the next reader, too.
#[inline]
pub(crate) fn take() -> Ordering {
    unless_weakened("take", Ordering::Release)
}

/// ORDERING\[follow\]: a reader's load of `head` before it looks at `tail`. Acquire: pairs with
/// ORDERING\[take\] of the reader before, so that the tail is at least the one that reader saw.
#[inline]
pub(crate) fn follow() -> Ordering {
    unless_weakened("follow", Ordering::Acquire)
}

/// FENCE\[recheck\]: between the loads of a frame that makes no sense and another look at `head`. Pairs with
/// ORDERING\[take\]: when the frame was written over, the head has moved, and this look sees that.
#[inline]
pub(crate) fn recheck_fence() {
    fence_unless_dropped("recheck_fence");
}

/// ORDERING\[request_publish\]: a program's store of the request channel's tail. Release: pairs with
/// ORDERING\[request_observe\], the slot before it is written.
#[inline]
pub(crate) fn request_publish() -> Ordering {
    unless_weakened("request_publish", Ordering::Release)
}

/// ORDERING\[request_observe\]: the daemon's load of the request channel's tail. Acquire: pairs with
/// ORDERING\[request_publish\].
#[inline]
pub(crate) fn request_observe() -> Ordering {
    unless_weakened("request_observe", Ordering::Acquire)
}

/// ORDERING\[request_free\]: the daemon's store of the request channel's head. Release: it has read
/// the slot before whoever sees it free with ORDERING\[request_reuse\] writes there.
#[inline]
pub(crate) fn request_free() -> Ordering {
    unless_weakened("request_free", Ordering::Release)
}

/// ORDERING\[request_reuse\]: a program's load of the request channel's head. Acquire: pairs with
/// ORDERING\[request_free\].
#[inline]
pub(crate) fn request_reuse() -> Ordering {
    unless_weakened("request_reuse", Ordering::Acquire)
}

/// ORDERING\[request_lock\]: the compare-and-swap that takes the request channel's lock. Acquire:
/// pairs with ORDERING\[request_unlock\], so the next writer starts at the last one's tail.
#[inline]
pub(crate) fn request_lock() -> Ordering {
    unless_weakened("request_lock", Ordering::Acquire)
}

/// ORDERING\[request_unlock\]: the store that gives the lock back. Release: pairs with
/// ORDERING\[request_lock\].
#[inline]
pub(crate) fn request_unlock() -> Ordering {
    unless_weakened("request_unlock", Ordering::Release)
}

/// FENCE\[request\]: between a program's store of the request channel's tail and what it does next.
/// Crosses FENCE\[look\]: either the program sees what the daemon has changed, or the daemon sees the
/// request.
#[inline]
pub(crate) fn request_fence() {
    fence_unless_dropped("request_fence");
}

/// FENCE\[look\]: between a change and the daemon's look at the request channel's tail. Crosses
/// FENCE\[request\].
#[inline]
pub(crate) fn look_fence() {
    fence_unless_dropped("look_fence");
}
