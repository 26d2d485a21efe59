//! One session: its connection, its handshake and its turns.

mod connection;
mod frame_budget;
pub(crate) mod peer;
pub(crate) mod peer_session;
