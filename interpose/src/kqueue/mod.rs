//! kqueue: events of AgentFS among those of the kernel, in the program's own kevent() calls.
//!
//! The program's queue stays the kernel's. The shim knows which of its EVFILT_VNODE knotes hang on
//! AgentFS files ([`Engine`] keeps a mirror of them), registers them with the daemon, and takes the
//! daemon's records out of the queue's ring in the thread that called kevent(). Two hidden knotes make the
//! queue wake and look readable: EVFILT_READ on the doorbell pipe, and EVFILT_USER on a reserved ident
//! while fetched records wait for the program.
//!
//! The code knows no platform: the real calls are functions that it is given ([`Originals`]), and the
//! connection is a [`Daemon`].

pub mod abi;
mod call;
mod daemon;
mod deliver;
mod engine;
mod hidden_knotes;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod hooks;
mod kernel;
mod knote;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod queue;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod queue_connection;
pub use daemon::{Channel, Daemon, Node, QueueId, WatchId, WatchOp};
pub use engine::Engine;
pub use kernel::{Call, CallOptions, Errno, Kevent64Fn, KeventFn, KeventQosFn, Originals, Real};
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use queue_connection::{QueueConnection, engine};
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(crate) use queue_connection::{closing, duplicated, in_forked_child, vacate};

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;
