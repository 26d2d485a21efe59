//! Tests the behaviour of agentfs-proto.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod message;
mod record;
mod registration;
mod socket;
mod ssz;
