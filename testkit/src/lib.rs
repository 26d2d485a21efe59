//! What the tests of several crates share; nothing of it is in the product.
//!
//! - [`random`] has numbers from a seed, [`shrink`] makes a failing sequence small, [`environment`]
//!   reads what a test is asked for.
//! - [`child`] waits for processes, [`program`] talks with them line by line, [`shim`] preloads the
//!   library into them.
//! - [`fs_oracle`] and [`inotify_oracle`] take the kernel as oracle: one for operations on files, the
//!   other for what a reader of inotify instances gets.
//! - [`churn`] changes a directory of the host at random, for tests of what is heard of it.
//! - [`mount_table`] has the mounts, and waits for the end of one.
//! - `daemon` starts daemons and the `agentfs` program, `files` changes files through a control
//!   socket, `scripted` is a daemon that does what a test says. These need the feature `daemon`.
//! - `samples` has one of every control message, and needs the feature `samples`.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    missing_docs,
    missing_debug_implementations,
    reason = "a test fails by panicking, and names say what helpers of tests do"
)]

pub mod child;
#[cfg(target_os = "linux")]
pub mod churn;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod environment;
#[cfg(feature = "daemon")]
pub mod files;
#[cfg(target_os = "linux")]
pub mod fs_oracle;
#[cfg(target_os = "linux")]
pub mod inotify_oracle;
#[cfg(target_os = "linux")]
pub mod mount_table;
pub mod program;
pub mod random;
#[cfg(feature = "samples")]
pub mod samples;
#[cfg(all(feature = "daemon", target_os = "linux"))]
pub mod scripted;
#[cfg(target_os = "linux")]
pub mod shim;
pub mod shrink;
