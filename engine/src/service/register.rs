//! Registers, changes and ends watches.

use std::sync::Arc;

use agentfs_core::id::{MountId, NodeId, Seq};

use super::{WatchError, WatchService};
use crate::api::Api;
use crate::channel::RecordPosition;
use crate::queue::{Open, Queue, Slot, Target, WatchId, WatchState};
use crate::synth::inotify::{IN_DELETE_SELF, IN_MASK_ADD};
use crate::tree::WatchedTree;
use crate::watch::{NodeWatch, TreeWatch, WatchFilter, WatchHandle};

/// What a watch on a node asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeInterest {
    /// `NOTE_*` bits, or `IN_*` bits as given to `inotify_add_watch`.
    pub mask: u32,
    /// The mount on which the watch was made, if any: the kernel itself notifies of what is done
    /// there.
    pub mount: Option<MountId>,
    /// The last change that the watch does not hear: the branch's last one at the time of
    /// registration.
    pub after: Seq,
}

/// What a watch of trees asks for.
#[derive(Clone, Debug)]
pub struct TreeInterest {
    /// The tops of the trees: absolute canonical paths in the branch.
    pub paths: Vec<Vec<u8>>,
    /// FSEvents: `kFSEventStreamCreateFlag*` bits; 0 for a native watch.
    pub flags: u32,
    /// Native: whether opening, reading and closing are heard too.
    pub activity: bool,
    /// As [`NodeInterest::mount`].
    pub mount: Option<MountId>,
    /// As [`NodeInterest::after`].
    pub after: Seq,
}

impl WatchService {
    /// Registers a knote or an inotify watch on a node, or changes the one that has this number.
    /// The watch hears every change that is committed after the return.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when the queue is closed or of another API, or has too many watches.
    pub fn watch_node(
        &self,
        queue: &Arc<Queue>,
        id: WatchId,
        node: NodeId,
        interest: NodeInterest,
    ) -> Result<(), WatchError> {
        match queue.api {
            Api::Inotify | Api::KqueueXnu | Api::KqueueFreeBsd => {}
            other @ (Api::FsEvents | Api::Native) => return Err(WatchError::OtherApi(other)),
        }
        let mut guard = queue.lock();
        let open = guard.as_mut().ok_or(WatchError::NoQueue(queue.id))?;
        let known = open.watches.find(id);
        if let Some((slot, state)) = known.and_then(|slot| Some((slot, open.watches.get(slot)?))) {
            if matches!(state.target, Target::Node(on) if on == node) {
                let old = state.interest;
                state.interest = merged(queue.api, old, interest.mask);
                let new = state.interest;
                self.router.set_interest(node, (queue, slot), old, new);
                return Ok(());
            }
            self.remove(queue, open, slot);
        }
        if open.watches.len() >= self.limits.watches {
            return Err(WatchError::Limit("watches of a queue", self.limits.watches));
        }
        let mask = merged(queue.api, 0, interest.mask);
        let slot = open.watches.insert(WatchState {
            id,
            target: Target::Node(node),
            interest: mask,
            unread_bits: 0,
            first_unread: RecordPosition::Nowhere,
        });
        let watch = NodeWatch {
            handle: WatchHandle {
                queue: Arc::clone(queue),
                slot,
            },
            api: queue.api,
            interest: mask,
            filter: WatchFilter {
                after: interest.after,
                mount: interest.mount,
            },
        };
        self.router.add_node(queue.branch, node, watch);
        Ok(())
    }

    /// Registers a watch of everything at and below some paths. It replaces the one that has this
    /// number.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when the queue is closed or of another API, or has too many watches.
    pub fn watch_trees(
        &self,
        queue: &Arc<Queue>,
        id: WatchId,
        interest: &TreeInterest,
    ) -> Result<(), WatchError> {
        match queue.api {
            Api::FsEvents | Api::Native => {}
            other @ (Api::Inotify | Api::KqueueXnu | Api::KqueueFreeBsd) => {
                return Err(WatchError::OtherApi(other));
            }
        }
        let mut guard = queue.lock();
        let open = guard.as_mut().ok_or(WatchError::NoQueue(queue.id))?;
        if let Some(slot) = open.watches.find(id) {
            self.remove(queue, open, slot);
        }
        if open.watches.len() >= self.limits.watches {
            return Err(WatchError::Limit("watches of a queue", self.limits.watches));
        }
        let slot = open.watches.insert(WatchState {
            id,
            target: Target::Trees(Vec::new()),
            interest: 0,
            unread_bits: 0,
            first_unread: RecordPosition::Nowhere,
        });
        let trees = interest.paths.iter().map(|path| WatchedTree {
            api: queue.api,
            branch: queue.branch,
            path: path.strip_suffix(b"/").unwrap_or(path).into(),
            activity: interest.activity,
            flags: interest.flags,
        });
        let trees: Vec<WatchedTree> = trees.collect();
        for tree in &trees {
            self.router.add_tree(TreeWatch {
                handle: WatchHandle {
                    queue: Arc::clone(queue),
                    slot,
                },
                tree: tree.clone(),
                filter: WatchFilter {
                    after: interest.after,
                    mount: interest.mount,
                },
            });
        }
        if let Some(state) = open.watches.get(slot) {
            state.target = Target::Trees(trees);
        }
        Ok(())
    }

    /// Ends a watch. Records that are enqueued already stay, and none is enqueued after the return.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when the queue is closed or has no such watch.
    pub fn unwatch(&self, queue: &Arc<Queue>, id: WatchId) -> Result<(), WatchError> {
        let mut guard = queue.lock();
        let open = guard.as_mut().ok_or(WatchError::NoQueue(queue.id))?;
        let slot = open.watches.find(id).ok_or(WatchError::NoWatch(id))?;
        self.remove(queue, open, slot);
        Ok(())
    }

    /// Ends an inotify watch as the kernel's `inotify_rm_watch` does: the reader gets `IN_IGNORED`.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when the queue is closed or of another API, or has no such watch.
    pub fn ignore(&self, queue: &Arc<Queue>, id: WatchId) -> Result<(), WatchError> {
        if queue.api != Api::Inotify {
            return Err(WatchError::OtherApi(queue.api));
        }
        let mut guard = queue.lock();
        let open = guard.as_mut().ok_or(WatchError::NoQueue(queue.id))?;
        let slot = open.watches.find(id).ok_or(WatchError::NoWatch(id))?;
        open.enqueue_ignored(id);
        self.remove(queue, open, slot);
        open.channel.publish();
        self.note_if_broken(queue, open);
        Ok(())
    }

    /// Enqueues what the reader of an inotify watch gets when the inode is gone (`IN_DELETE_SELF`
    /// if `mask` has it, then `IN_IGNORED`), and ends the watch if it is registered.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when the queue is closed or of another API.
    pub fn notify_gone(
        &self,
        queue: &Arc<Queue>,
        id: WatchId,
        mask: u32,
    ) -> Result<(), WatchError> {
        if queue.api != Api::Inotify {
            return Err(WatchError::OtherApi(queue.api));
        }
        let mut guard = queue.lock();
        let open = guard.as_mut().ok_or(WatchError::NoQueue(queue.id))?;
        if let Some(slot) = open.watches.find(id) {
            self.remove(queue, open, slot);
        }
        let wants = mask & IN_DELETE_SELF != 0;
        open.enqueue_gone(id, wants);
        open.channel.publish();
        self.note_if_broken(queue, open);
        Ok(())
    }

    pub(super) fn remove(&self, queue: &Arc<Queue>, open: &mut Open, slot: Slot) {
        if let Some(state) = open.watches.remove(slot) {
            self.router
                .remove(queue, slot, &state.target, state.interest);
        }
    }
}

/// Returns the interest of a watch that is registered anew: with `IN_MASK_ADD` the old one and the
/// new one together.
fn merged(api: Api, old: u32, new: u32) -> u32 {
    if api == Api::Inotify && new & IN_MASK_ADD != 0 {
        old | (new & !IN_MASK_ADD)
    } else {
        new
    }
}
