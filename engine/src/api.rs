//! The interfaces whose notifications a queue imitates.

/// The API whose notifications the records of a queue are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Api {
    /// `EVFILT_VNODE` knotes as XNU posts them.
    KqueueXnu,
    /// `EVFILT_VNODE` knotes as FreeBSD posts them.
    KqueueFreeBsd,
    /// inotify.
    Inotify,
    /// FSEvents.
    FsEvents,
    /// A native subscription, whose records imitate no API.
    Native,
}
