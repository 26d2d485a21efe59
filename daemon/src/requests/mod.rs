//! What each request does: `dispatch.rs` says which function carries it out.

mod apply;
mod background;
mod branches;
pub(crate) mod dispatch;
mod files;
mod mounts;
pub(crate) mod open_session;
mod pages;
mod runs;
mod status;
mod store;
mod subscriptions;
mod watch_list;
mod watches;
pub(crate) mod work;
