//! Delivers the changes of a filesystem to the queues of the programs that watch it, for the daemon.
//!
//! actor -> FsCore operation -> Event -> **Router** -> **Synthesizer** -> **Ring** -> **Doorbell** -> Hook
//!
//! [`service::WatchService`] is the sink that FsCore calls with every change. It looks up the watches
//! on what the change touches, asks the tables of [`synth`] what each of them hears, writes records
//! into the rings of their queues, and rings the doorbells of the readers that sleep. All of that
//! happens in the thread that committed the change.
//!
//! The engine knows no socket, no process and no mount. Its caller opens and closes sessions, hands
//! the descriptors of a queue to a program, and calls [`service::WatchService::refill`] when the
//! program says that a full ring has room again.
//!
//! # Examples
//!
//! An inotify queue hears that a directory came to be:
//!
//! ```
//! use std::sync::Arc;
//!
//! use agentfs_core::id::SessionId;
//! use agentfs_core::{Caller, FsConfig, FsCore};
//! use agentfs_engine::service::{QueueLimits, NodeInterest, WatchService};
//! use agentfs_engine::synth::inotify::{IN_CREATE, IN_ISDIR};
//! use agentfs_engine::{Api, WatchId};
//! use agentfs_proto::record::EventRef;
//! use agentfs_ring::{Capacity, Consumer, OwnerId};
//!
//! let core = FsCore::new(FsConfig::default())?;
//! let service = Arc::new(WatchService::new(core.clone(), QueueLimits::default())?);
//! core.subscribe_events(service.clone())?;
//!
//! // A session looks at one branch; a queue is what one program waits on.
//! let session = SessionId(1);
//! service.open_session(session, FsCore::MAIN);
//! let opened = service.open_queue(session, Api::Inotify, Capacity::DEFAULT)?;
//!
//! let (branch, caller) = (core.branch(FsCore::MAIN)?, Caller::root());
//! let root = branch.lstat(&caller, "/")?.node;
//! let interest = NodeInterest {
//!     mask: IN_CREATE,
//!     mount: None,
//!     after: branch.last_seq(),
//! };
//! service.watch_node(&opened.queue, WatchId(7), root, interest)?;
//!
//! branch.mkdir(&caller, "/d", 0o755)?;
//!
//! // What the preloaded library does in the program's own process.
//! let program = Consumer::open(opened.ring)?;
//! let mut claim = program.claim(OwnerId::this_process(), |_| true).expect("nobody else reads");
//! let record = claim.next()?.expect("the directory was made");
//! let record = record.to_vec();
//! let event = EventRef::parse(&record)?;
//! assert_eq!(event.head().watch, 7);
//! assert_eq!(event.head().mask, IN_CREATE | IN_ISDIR);
//! assert_eq!(event.path(), b"d");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod api;
mod branch_counts;
mod channel;
mod counters;
mod doorbell;
mod heal;
mod kept;
mod queue;
mod recent;
mod record;
mod record_writer;
mod route;
pub mod service;
mod spill;
pub mod synth;
mod tree;
mod unheard;
mod watch;

pub use api::Api;
pub use branch_counts::BranchCounts;
pub use counters::Counts;
pub use queue::{Queue, QueueId, QueueReport, WatchId, WatchReport, WatchTarget};
