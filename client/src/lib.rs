//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> **Hook**
//!
//! The client of the AgentFS daemon, for programs that subscribe to what changes in a branch or that
//! make, change and compare branches themselves.
//!
//! A [`Subscription`] is an iterator of [`Event`]s, which are read from shared memory. It takes the
//! place that the preloaded library's hook has in an unmodified program. A [`Client`] sends the
//! requests of [`agentfs_proto::message`] on the control socket and waits for their answers.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let socket = daemon::start()?;
//! use agentfs_client::SubscriptionOptions;
//!
//! let options = SubscriptionOptions::new().path("/src");
//! # let options = options.socket(socket);
//! let subscription = options.open()?;
//! # let subscription = subscription.take(1);
//! for event in subscription {
//!     let event = event?;
//!     println!("{:?} {}", event.kind, event.path.display());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The crate has no thread, prints nothing, sends no signal, and waits no longer than its caller
//! says. On Linux its system calls do not pass through libc, closing descriptors excepted, so the
//! preloaded library uses it as well.
#![forbid(unsafe_code)]

mod call;
mod client;
mod connect;
mod deadline;
mod error;
mod event;
mod options;
mod subscription;
mod turn;

pub use self::client::{Answer, Client, OpenQueue};
pub use self::deadline::Deadline;
pub use self::error::{CallError, ConnectError, SubscriptionError};
pub use self::event::{Event, EventKind};
pub use self::options::SubscriptionOptions;
pub use self::subscription::Subscription;
pub use self::turn::Progress;
