//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> **Ring** -> Doorbell -> Hook
//!
//! What crosses the process boundary: the event record and the control protocol.
//!
//! [`record`] is what lies in a ring: one fixed head of 64 bytes and the names, read in place by the
//! program that waits. It deliberately knows neither the ring that carries it nor the filesystem it
//! tells of.
//!
//! ```
//! use agentfs_proto::record::{AgentFsEvent, EventRef, Kind, encoded_len, write_to};
//!
//! let event = AgentFsEvent { kind: Kind::CREATED, watch: 1, mask: 0x100, ..AgentFsEvent::default() };
//! let mut slot = vec![0; encoded_len(b"a.txt", b"").unwrap()];
//! write_to(&mut slot, &event, b"a.txt", b"").unwrap();
//!
//! let read = EventRef::parse(&slot).unwrap();
//! assert_eq!(read.head().kind, Kind::CREATED);
//! assert_eq!(read.path(), b"a.txt");
//! ```
#![forbid(unsafe_code)]

pub mod record;
