//! Watches, and the indexes that find those that must hear a change.
//!
//! A kqueue or inotify watch sits on a node ([`NodeIndex`]), an FSEvents or native watch on a path
//! and everything below it ([`TreeIndex`]).

mod hash;
mod node_index;
mod tree_index;

use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::{MountId, Seq};

pub(crate) use self::node_index::{NodeIndex, NodeWatch};
pub(crate) use self::tree_index::{TreeIndex, TreeWatch, path_hash};
use crate::queue::{Queue, Slot};

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

/// Which changes a watch leaves out, whatever its interest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WatchFilter {
    /// The changes up to this one were committed before the watch was registered.
    pub(crate) after: Seq,
    /// The mount on which the watch was made, where the kernel itself notifies of what is done
    /// there.
    pub(crate) mount: Option<MountId>,
}

impl WatchFilter {
    /// Returns whether the change is older than the watch.
    #[inline]
    pub(crate) fn is_older(&self, envelope: &Envelope) -> bool {
        envelope.seq <= self.after
    }

    /// Returns whether the kernel itself notifies the program: on these mounts it does.
    #[inline]
    pub(crate) fn is_notified_by_kernel(&self, kernel_mounts: &[MountId]) -> bool {
        self.mount
            .is_some_and(|mount| kernel_mounts.contains(&mount))
    }
}

/// Names a watch: its queue, and where the queue keeps its state.
#[derive(Clone, Debug)]
pub(crate) struct WatchHandle {
    pub(crate) queue: Arc<Queue>,
    pub(crate) slot: Slot,
}

impl WatchHandle {
    pub(crate) fn is(&self, queue: &Arc<Queue>, slot: Slot) -> bool {
        self.slot == slot && Arc::ptr_eq(&self.queue, queue)
    }
}
