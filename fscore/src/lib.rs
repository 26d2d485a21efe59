//! actor -> **FsCore operation** -> **Event** -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! A branching, snapshotting in-memory overlay filesystem over a host directory.
#![forbid(unsafe_code)]

mod apply;
mod attr;
mod beneath;
mod branch;
mod bus;
mod caller;
mod changes;
mod config;
mod content;
mod diff;
mod dir;
mod errno;
pub mod event;
mod flags;
mod fs;
mod handle;
pub mod id;
mod inode;
mod lower;
mod lower_change;
mod ops;
mod perm;
mod process;
mod restore;
mod snapshot;
mod sync;
mod tree;
mod trie;
mod walk;

pub use apply::{Action, Applied, ApplyError, ApplyMode};
pub use attr::{Attr, DirEntry, Nanos, Seek, SetAttr, SetTime, StatFs, file_type, kind_of_mode};
pub use branch::Branch;
pub use bus::{EventsDisabled, SubscriptionId};
pub use caller::Caller;
pub use changes::{Diff, Frozen, PathChange, Version};
pub use config::{
    BackstoreMode, CaseSensitivity, ConfigError, FsConfig, Limits, Overlay, Permissions,
};
pub use diff::Differs;
pub use errno::{Errno, Result};
pub use flags::{Access, AllocateFlags, OpenFlags, RenameFlags, XattrFlags};
pub use fs::FsCore;
pub use handle::HandleId;
pub use lower_change::LowerChange;
pub use snapshot::{BranchInfo, SnapshotInfo};
