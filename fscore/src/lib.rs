//! actor -> **FsCore operation** -> **Event** -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! A branching, snapshotting overlay filesystem over a host directory, for programs that must
//! know every change the moment it commits: sandboxes, build systems, virtual filesystems.
//!
//! A [`Branch`] is a persistent tree of objects behind one lock. A snapshot is a clone of a branch's
//! tree, and a branch starts as a clone of a snapshot's; both take constant time. Comparing two
//! versions costs what they do not share.
//!
//! Each operation validates, commits under the branch's lock, and emits. The change gets its place in
//! the branch's order under the lock, and after unlocking the committing thread delivers it to every
//! [`EventSink`](event::EventSink). Errors are those of the Linux system calls, and everything else is
//! as on a tmpfs that is mounted `noatime`.
//!
//! # Example
//!
//! Branch, write, snapshot, diff, events:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use agentfs_core::event::{EventKind, EventSink};
//! use agentfs_core::{Caller, FsConfig, FsCore, OpenFlags, PathChange, Version};
//!
//! /// Keeps every event.
//! #[derive(Default)]
//! struct Log(Mutex<Vec<EventKind>>);
//!
//! impl EventSink for Log {
//!     fn on_event(&self, event: &EventKind) {
//!         self.0.lock().unwrap().push(event.clone());
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fs = FsCore::new(FsConfig::default())?;
//! let me = Caller::root();
//! let main = fs.branch(FsCore::MAIN)?;
//! main.mkdir(&me, "/src", 0o755)?;
//!
//! // A branch for an agent, and a sink that gets its events.
//! let before = fs.snapshot_create(&me, FsCore::MAIN, "before")?;
//! let agent = fs.branch(fs.branch_create_from_snapshot(&me, before, "agent")?)?;
//! let log = Arc::new(Log::default());
//! fs.subscribe_events(log.clone())?;
//!
//! let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
//! let file = agent.open(&me, "/src/main.rs", flags, 0o644)?;
//! agent.write(&me, file, b"fn main() {}")?;
//! agent.close(&me, file)?;
//!
//! assert_eq!(*log.0.lock().unwrap(), [
//!     EventKind::Created { path: "/src/main.rs".into() },
//!     EventKind::Modified { path: "/src/main.rs".into() },
//! ]);
//! // The other branch shows nothing of this, and the difference is known.
//! assert!(main.stat(&me, "/src/main.rs").is_err());
//! let mut diff = fs.diff(Version::Snapshot(before), Version::Branch(agent.id()))?;
//! assert!(matches!(diff.next(), Some(PathChange::Added { path, .. }) if path.ends_with("main.rs")));
//! assert!(diff.next().is_none());
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! - The crate knows no watcher, no socket and no mount. It starts threads only while it takes
//!   the lower directory for a frozen branch, and hands deliveries over to one when others wait.
//! - It writes to the host only in [`Branch::apply`].
//! - There are no ACLs: where the host has one, a branch shows fewer rights than the permission bits.
//! - There are no byte-range locks: a mount leaves them to its kernel.
//! - It handles no signal but SIGBUS, on Linux and with a store on disk: so the kernel says that it
//!   cannot take what was copied to the mapped end of the log. The handler passes every other SIGBUS
//!   on to the one that was there before. A program that installs its own one later must do the same.
//!
//! # Layers
//!
//! The folders of the crate are layers. Each imports only itself and those before it, which
//! `cargo xtask lint` checks:
//!
//! | folder | holds |
//! |---|---|
//! | `sync.rs` | the locks and atomics of the crate |
//! | `model/` | numbers, errors, flags, attributes, names, events, the configuration |
//! | `disk/` | the files in which a store lies, behind one seam |
//! | `log/` | the write-ahead log of a store: a record for each change |
//! | `lower/` | the host's directory: reading it, its objects' nodes, what applying wrote to it |
//! | `store/` | what a branch holds: the persistent tree, objects and their content, open handles |
//! | `branch/` | the filesystem, branches, snapshots; transactions, and their events' way to the sinks |
//! | `ops/` | the operations, the walk along a path, permissions; changes that others make below |
//! | `diff/` | what differs between two versions: listing it, emitting it, restoring, applying |

mod branch;
mod diff;
mod disk;
mod log;
mod lower;
mod model;
mod ops;
mod store;
mod sync;

pub use self::branch::Branch;
pub use self::branch::check::{LEAST_MAX_STORE, StoreCheck, StoreUsage};
pub use self::branch::event_bus::{EventsDisabled, SubscriptionId};
pub use self::branch::freeze::{FreezeError, FreezeProgress, Freezing};
pub use self::branch::fs::FsCore;
pub use self::branch::snapshot::{BranchInfo, SnapshotInfo};
pub use self::diff::apply::{Action, Applied, ApplyError, ApplyMode};
pub use self::diff::frozen::Frozen;
pub use self::diff::path_changes::{Diff, PathChange, Version};
pub use self::diff::steps::Differs;
pub use self::disk::lock_file::{is_ending, lock_file};
pub use self::lower::announced::Announced;
pub use self::lower::transaction::{
    ApplyLock, AttributeChange, Expected, LockError, Slot, Transaction, is_temporary, recover,
    recover_if_idle,
};
pub use self::lower::{Fingerprint, Held, HostObject, LowerPlace, Place, beneath};
pub use self::model::attr::{
    Attr, DirEntry, Nanos, Seek, SetAttr, SetTime, StatFs, file_type, kind_of_mode,
};
pub use self::model::caller::Caller;
pub use self::model::config::{
    BackstoreMode, CaseSensitivity, ConfigError, FsConfig, FsLimits, Overlay, Permissions,
};
pub use self::model::errno::{Errno, Result};
pub use self::model::flags::{Access, AllocateFlags, OpenFlags, RenameFlags, XattrFlags};
pub use self::model::globs::{BadGlob, Globs};
pub use self::model::stamp::Stamp;
pub use self::model::store_error::StoreError;
pub use self::model::{event, id};
pub use self::ops::lower_change::LowerChange;
pub use self::ops::readdir::Pass;
pub use self::ops::show::{Base, Shown};
pub use self::store::handles::HandleId;
