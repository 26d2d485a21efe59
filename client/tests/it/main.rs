//! Tests the behaviour of agentfs-client.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
