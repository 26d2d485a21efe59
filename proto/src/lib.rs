//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> **Ring** -> Doorbell -> Hook
//!
//! What crosses the boundary between processes: the event record and the control protocol.
//!
//! [`record`] is what lies in a ring: one fixed head of 64 bytes and the names, copied out by the
//! program that waits. [`message`] is what is said on the control socket, encoded by [`ssz`], cut
//! into [`frame`]s, with [`descriptor`]s beside them. The crate `agentfs-client` speaks it.
//!
//! It deliberately knows neither the ring that carries a record, nor the filesystem whose changes a
//! record reports, nor how the daemon carries out a request. It is loaded into other people's
//! processes: it has no threads and no output, and no more dependencies than system calls and checked
//! casts need.
//!
//! ```
//! use agentfs_proto::record::{AgentFsEvent, EventRef, Kind, encode};
//!
//! let event = AgentFsEvent { kind: Kind::CREATED, watch: 1, mask: 0x100, ..AgentFsEvent::default() };
//! let mut bytes = Vec::new();
//! encode(&event, b"a.txt", b"", |part| bytes.extend_from_slice(part)).unwrap();
//!
//! let read = EventRef::parse(&bytes).unwrap();
//! assert_eq!(read.head().kind, Kind::CREATED);
//! assert_eq!(read.path(), b"a.txt");
//! ```
#![forbid(unsafe_code)]

pub mod bytes;
pub mod descriptor;
pub mod frame;
pub mod message;
pub mod record;
pub mod registration;
pub mod socket;
pub mod ssz;
