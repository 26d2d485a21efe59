//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> **Hook**
//!
//! The client of the AgentFS daemon, for programs that subscribe to what changes in a branch or that
//! make, change and compare branches themselves.
//!
//! A [`Subscription`] is an iterator of [`Event`]s, which are read from shared memory. It takes the
//! place that the preloaded library's hook has in an unmodified program. A [`Client`] sends the
//! requests of [`agentfs_proto::message`] on the control socket and waits for their answers.
//!
//! ```no_run
//! use agentfs_client::SubscriptionOptions;
//!
//! for event in SubscriptionOptions::new().path("/src").open()? {
//!     let event = event?;
//!     println!("{:?} {}", event.kind, event.path.display());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate has no thread, prints nothing, sends no signal, and waits no longer than its caller
//! says. On Linux its system calls do not pass through libc, closing descriptors excepted, so the
//! preloaded library uses it as well.
#![forbid(unsafe_code)]

mod client;
mod deadline;
mod error;
mod event;
mod subscription;
mod turn;

pub use self::client::{Answer, Client, OpenQueue};
pub use self::deadline::Deadline;
pub use self::error::{CallError, ConnectError, SubscriptionError};
pub use self::event::{Event, EventKind};
pub use self::subscription::{Subscription, SubscriptionOptions};
pub use self::turn::Progress;
