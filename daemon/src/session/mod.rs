//! One session: its connection, its handshake and its turns.

pub(crate) mod connection;
pub(crate) mod peer;
pub(crate) mod peer_session;
