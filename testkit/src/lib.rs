//! What the tests of several crates share; nothing of it is in the product.
//!
//! [`daemon`] starts daemons and the `agentfs` program, [`child`] waits for processes, [`files`]
//! changes files through a control socket, [`random`] has numbers from a seed.
#![expect(
    clippy::unwrap_used,
    missing_docs,
    missing_debug_implementations,
    reason = "a test fails by panicking, and names say what helpers of tests do"
)]

pub mod child;
pub mod daemon;
pub mod files;
pub mod random;
