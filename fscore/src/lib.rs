//! actor -> **FsCore operation** -> **Event** -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! A branching, snapshotting in-memory overlay filesystem over a host directory.
#![forbid(unsafe_code)]

pub mod event;
pub mod id;

/// The filesystem.
#[derive(Debug)]
pub struct FsCore {}
