//! Sessions as the event loop serves them. `PeerSession` is one connected process with its turns;
//! after the handshake it has an `OpenSession` (requests/), which carries out requests;
//! `PublicSession` (base/) is what other sessions may see of it.

mod connection;
mod frame_budget;
pub(crate) mod peer;
pub(crate) mod peer_session;
