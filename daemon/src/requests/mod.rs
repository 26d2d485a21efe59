//! What each request does.

pub(crate) mod apply;
pub(crate) mod background;
pub(crate) mod branches;
pub(crate) mod dispatch;
pub(crate) mod files;
pub(crate) mod runs;
pub(crate) mod watch_list;
pub(crate) mod watches;
