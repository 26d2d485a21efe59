//! The memory of a ring, seen through typed accessors: shared words as atomics, frames as bytes.
//!
//! `mapped` is the real thing; `model` is the same interface over loom's cells, which report every
//! access that the orderings do not separate.

#[cfg(not(loom))]
mod mapped;
#[cfg(not(loom))]
pub(crate) use mapped::{Region, Slot, SlotMut};

#[cfg(loom)]
mod model;
#[cfg(loom)]
pub(crate) use model::{Region, Slot, SlotMut};
