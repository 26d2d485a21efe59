//! What each request does.

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
mod subscriptions;
mod watch_list;
mod watches;
pub(crate) mod work;
