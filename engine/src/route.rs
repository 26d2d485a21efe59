//! Finds the watches that must hear a change, and what each of them hears of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agentfs_core::event::{Change, Envelope, Place};
use agentfs_core::id::{BranchId, NodeId};

use crate::api::Api;
use crate::branch_counts::BranchCounts;
use crate::queue::{Queue, Slot, Target};
use crate::record_writer::{ApiEvent, RoutedChange};
use crate::synth::fsevents;
use crate::synth::inotify::{self, Heard, Steps};
use crate::synth::vnode::{self, Posts};
use crate::synth::{self, Role, native, vnode_freebsd, vnode_xnu};
use crate::tree::WatchedTree;
use crate::watch::{Delivery, NodeIndex, NodeWatch, Round, TreeIndex, TreeWatch, WatchHandle};

/// The indexes of all watches, and counts over all of them.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) nodes: NodeIndex,
    pub(crate) trees: TreeIndex,
    /// How many watches want to hear of opening, reading and closing.
    activity: BranchCounts,
    /// How many FSEvents trees want to hear that their top moved.
    roots: BranchCounts,
    /// How many renames were routed.
    cookies: AtomicU32,
}

/// A watch that must hear a change, and what it hears.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) handle: WatchHandle,
    /// Its place among the notifications of the same queue.
    order: u8,
    pub(crate) event: ApiEvent,
}

impl Notification {
    /// Returns the key that sorts the notifications of one queue together, in their order.
    fn rank(&self) -> (usize, u8, Slot) {
        let queue = Arc::as_ptr(&self.handle.queue).addr();
        (queue, self.order, self.handle.slot)
    }

    /// Returns whether both say the same to one watch. They do for a tree that holds both names of
    /// a rename, and for a stream whose trees overlap.
    fn repeats(&self, other: &Self) -> bool {
        self.handle.is(&other.handle.queue, other.handle.slot) && self.event == other.event
    }
}

/// What all queues hear of one change. The notifications of one queue are together, in the order in
/// which the queue hears them.
#[derive(Debug)]
pub(crate) struct Notifications(Vec<Notification>);

thread_local! {
    /// The memory of this thread's last [`Notifications`]. The next ones reuse it and allocate
    /// nothing.
    static SCRATCH: Cell<Vec<Notification>> = const { Cell::new(Vec::new()) };
}

impl Notifications {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns each queue with its notifications.
    #[inline]
    pub(crate) fn by_queue(&self) -> impl Iterator<Item = (&Arc<Queue>, &[Notification])> {
        self.0
            .chunk_by(|a, b| Arc::ptr_eq(&a.handle.queue, &b.handle.queue))
            .filter_map(|part| Some((&part.first()?.handle.queue, part)))
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        let mut list = std::mem::take(&mut self.0);
        list.clear();
        if list.capacity() > 0 {
            SCRATCH.set(list);
        }
    }
}

impl Router {
    pub(crate) fn new() -> Self {
        Self {
            nodes: NodeIndex::new(),
            trees: TreeIndex::new(),
            activity: BranchCounts::default(),
            roots: BranchCounts::default(),
            cookies: AtomicU32::new(0),
        }
    }

    /// Returns whether any watch in a branch, or in any branch, wants to hear of opening, reading and
    /// closing. Watches are counted before they are in an index.
    #[inline]
    pub(crate) fn wants_activity(&self, branch: Option<BranchId>) -> bool {
        branch.map_or_else(
            || self.activity.has_any(),
            |branch| self.activity.has(branch),
        )
    }

    /// Looks up the watches to which a round delivers a change.
    #[inline]
    pub(crate) fn notifications(&self, envelope: &Envelope, round: Round<'_>) -> Notifications {
        if self.nodes.len() + self.trees.len() == 0 {
            return Notifications(Vec::new());
        }
        let mut found = Notifications(SCRATCH.take());
        self.collect(envelope, round, &mut found.0);
        if found.0.len() > 1 {
            found.0.sort_unstable_by_key(Notification::rank);
            found.0.dedup_by(|a, b| a.repeats(b));
        }
        found
    }

    fn collect(
        &self,
        envelope: &Envelope,
        round: Round<'_>,
        notifications: &mut Vec<Notification>,
    ) {
        if self.nodes.len() > 0 {
            self.collect_nodes(envelope, round, notifications);
        }
        if self.trees.len() > 0 {
            self.collect_trees(envelope, round, notifications);
        }
    }

    fn collect_nodes(
        &self,
        envelope: &Envelope,
        round: Round<'_>,
        notifications: &mut Vec<Notification>,
    ) {
        let nodes = synth::nodes(&envelope.change);
        let mut tables = Tables::new(&envelope.change);
        for (at, node) in nodes.iter().enumerate() {
            let Some(node) = *node else { continue };
            if nodes[..at].contains(&Some(node)) {
                continue;
            }
            self.nodes.find(envelope.branch, node, |watch| {
                if !watch.filter.is_older(envelope) {
                    let delivery = watch.filter.delivery(envelope, round);
                    tables.ask(
                        watch,
                        |role| nodes[role.index()] == Some(node),
                        delivery,
                        notifications,
                    );
                }
            });
        }
    }

    fn collect_trees(
        &self,
        envelope: &Envelope,
        round: Round<'_>,
        notifications: &mut Vec<Notification>,
    ) {
        let change = &envelope.change;
        let entries = fsevents::entries(change);
        let place = match (change.place(), change.object()) {
            (None, Some(node)) if node.id != NodeId::ROOT => return,
            (place, _) => place,
        };
        let mut hear = |watch: &TreeWatch, at: fsevents::At| {
            if !watch.filter.is_older(envelope)
                && watch.filter.delivery(envelope, round) == Delivery::ByRecord
            {
                ask_tree(watch, change, &entries, at, notifications);
            }
        };
        let (dir, name) = parts(place);
        self.trees.find(envelope.branch, dir, name, |watch| {
            hear(watch, fsevents::At::Old);
        });
        if let Some(to) = change.new_place() {
            self.trees
                .find(envelope.branch, &to.dir, &to.name, |watch| {
                    hear(watch, fsevents::At::New);
                });
        }
        let is_first = matches!(round, Round::First(_));
        if is_first && self.roots.has(envelope.branch) {
            self.collect_moved_roots(envelope, notifications);
        }
    }

    /// Adds the streams whose top, or a directory above it, was moved, removed or created.
    fn collect_moved_roots(&self, envelope: &Envelope, notifications: &mut Vec<Notification>) {
        let mut moved = |place: &Place| {
            self.trees
                .find_below(envelope.branch, &place.dir, &place.name, |watch| {
                    if !watch.filter.is_older(envelope) {
                        notifications.push(Notification {
                            handle: watch.handle.clone(),
                            order: u8::MAX,
                            event: ApiEvent::RootChanged,
                        });
                    }
                });
        };
        let change = &envelope.change;
        if change.is_of_names() {
            let names = [change.place(), change.new_place()];
            names.into_iter().flatten().for_each(&mut moved);
        }
    }

    /// Prepares a change for its records. A rename gets a cookie, from the half of the numbers that
    /// the kernel hardly reaches.
    #[inline]
    pub(crate) fn routed<'a>(&self, envelope: &'a Envelope, flags: u32) -> RoutedChange<'a> {
        let cookie = if envelope.change.new_place().is_some() {
            0x8000_0000 | self.cookies.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
        } else {
            0
        };
        RoutedChange {
            envelope,
            cookie,
            flags,
        }
    }

    pub(crate) fn add_node(&self, branch: BranchId, node: NodeId, watch: NodeWatch) {
        self.count_interest((watch.api, branch), 0, watch.interest);
        self.nodes.insert(branch, node, watch);
    }

    pub(crate) fn set_interest(
        &self,
        node: NodeId,
        (queue, slot): (&Arc<Queue>, Slot),
        old: u32,
        new: u32,
    ) {
        self.count_interest((queue.api, queue.branch), old, new);
        self.nodes
            .set_interest(queue.branch, node, (queue, slot), new);
    }

    pub(crate) fn add_tree(&self, watch: TreeWatch) {
        if watch.tree.asks_for_activity() {
            self.activity.add(watch.tree.branch);
        }
        if watch.tree.asks_for_root() {
            self.roots.add(watch.tree.branch);
        }
        self.trees.insert(watch);
    }

    fn remove_tree(&self, tree: &WatchedTree, queue: &Arc<Queue>, slot: Slot) {
        if tree.asks_for_activity() {
            self.activity.remove(tree.branch);
        }
        if tree.asks_for_root() {
            self.roots.remove(tree.branch);
        }
        self.trees.remove(tree, queue, slot);
    }

    /// Removes a watch from the indexes.
    pub(crate) fn remove(&self, queue: &Arc<Queue>, slot: Slot, target: &Target, interest: u32) {
        match target {
            Target::Node(node) => {
                self.count_interest((queue.api, queue.branch), interest, 0);
                self.nodes.remove(queue.branch, *node, queue, slot);
            }
            Target::Trees(trees) => trees
                .iter()
                .for_each(|tree| self.remove_tree(tree, queue, slot)),
        }
    }

    fn count_interest(&self, (api, branch): (Api, BranchId), old: u32, new: u32) {
        let activity = match api {
            Api::Inotify => inotify::ACTIVITY,
            Api::KqueueFreeBsd => vnode_freebsd::ACTIVITY,
            Api::KqueueXnu | Api::FsEvents | Api::Native => 0,
        };
        match (old & activity != 0, new & activity != 0) {
            (false, true) => self.activity.add(branch),
            (true, false) => self.activity.remove(branch),
            (true, true) | (false, false) => {}
        }
    }
}

/// What each API says of one change. It is worked out at the first watch of that API.
struct Tables<'a> {
    change: &'a Change,
    steps: Option<Steps>,
    xnu: Option<Posts>,
    freebsd: Option<Posts>,
}

impl<'a> Tables<'a> {
    fn new(change: &'a Change) -> Self {
        Self {
            change,
            steps: None,
            xnu: None,
            freebsd: None,
        }
    }

    /// Adds what a watch on a node hears. `plays` says which roles the node has in the change.
    #[inline]
    fn ask(
        &mut self,
        watch: &NodeWatch,
        plays: impl Fn(Role) -> bool,
        delivery: Delivery,
        notifications: &mut Vec<Notification>,
    ) {
        if delivery == Delivery::InAnotherRound {
            return;
        }
        let kernel_notifies = delivery == Delivery::ByKernel;
        let mut notify = |order, event| {
            notifications.push(Notification {
                handle: watch.handle.clone(),
                order,
                event,
            });
        };
        let posts = match watch.api {
            Api::Inotify => {
                let steps = self
                    .steps
                    .get_or_insert_with(|| inotify::steps(self.change));
                for (order, step) in (0..).zip(steps.iter()).filter(|(_, step)| plays(step.role)) {
                    match inotify::hear(watch.interest, step) {
                        Heard::No => {}
                        Heard::Ignored if kernel_notifies => notify(order, ApiEvent::Ended),
                        heard @ (Heard::Event | Heard::LastEvent | Heard::Ignored) => {
                            if !kernel_notifies {
                                notify(order, ApiEvent::Inotify(*step, heard));
                            }
                        }
                    }
                }
                return;
            }
            Api::KqueueXnu => self
                .xnu
                .get_or_insert_with(|| vnode_xnu::posts(self.change)),
            Api::KqueueFreeBsd => self
                .freebsd
                .get_or_insert_with(|| vnode_freebsd::posts(self.change)),
            Api::FsEvents | Api::Native => return,
        };
        if kernel_notifies {
            return;
        }
        for (order, post) in (0..).zip(posts.iter()).filter(|(_, post)| plays(post.role)) {
            let hint = vnode::hear(watch.interest, post);
            if hint != 0 {
                notify(order, ApiEvent::Vnode(post.role, hint));
            }
        }
    }
}

/// Adds what a watch of a tree hears. `at` says which name of the change lies in the tree.
fn ask_tree(
    watch: &TreeWatch,
    change: &Change,
    entries: &[fsevents::Entry],
    at: fsevents::At,
    notifications: &mut Vec<Notification>,
) {
    let mut notify = |order, event| {
        notifications.push(Notification {
            handle: watch.handle.clone(),
            order,
            event,
        });
    };
    match watch.tree.api {
        Api::FsEvents => {
            for (order, entry) in (0..).zip(entries).filter(|(_, entry)| entry.at == at) {
                notify(order, ApiEvent::FsEvents(*entry, watch.tree.flags));
            }
        }
        Api::Native => {
            if native::hears(change, watch.tree.activity) {
                notify(0, ApiEvent::Native);
            }
        }
        Api::KqueueXnu | Api::KqueueFreeBsd | Api::Inotify => {}
    }
}

/// Returns a name as directory and entry; the root has neither.
fn parts(place: Option<&Place>) -> (&[u8], &[u8]) {
    place.map_or((&[], &[]), |place| (&place.dir, &place.name))
}
