//! Which watches must hear a change, and what each of them hears.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agentfs_core::event::{Change, Envelope, Place};
use agentfs_core::id::{BranchId, MountId, NodeId};

use crate::branch_counts::BranchCounts;
use crate::queue::{Open, Queue, Slot, Target};
use crate::synth::fsevents::{self, CREATE_WATCH_ROOT};
use crate::synth::inotify::{self, Heard, Steps};
use crate::synth::vnode::{self, Posts};
use crate::synth::{self, Role, native, vnode_freebsd, vnode_xnu};
use crate::tell::{News, Signal};
use crate::watch::{Api, Home, NodeIndex, NodeWatch, TreeIndex, TreeWatch};

/// The indexes, and what is counted over all watches.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) nodes: NodeIndex,
    pub(crate) trees: TreeIndex,
    /// How many watches want opening, reading and closing told.
    activity: BranchCounts,
    /// How many FSEvents trees want to hear that their top moved.
    roots: BranchCounts,
    /// Renames told so far.
    cookies: AtomicU32,
}

/// A watch that must hear a change.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) home: Home,
    /// Before which other hits of the same queue it comes.
    order: u8,
    pub(crate) signal: Signal,
}

impl Hit {
    /// Brings the hits of one queue together, in their order.
    fn rank(&self) -> (usize, u8, Slot) {
        let queue = Arc::as_ptr(&self.home.queue).addr();
        (queue, self.order, self.home.slot)
    }

    /// Whether both say the same to one watch: a tree that holds both names of a rename, a stream
    /// whose trees overlap.
    fn repeats(&self, other: &Self) -> bool {
        self.home.is(&other.home.queue, other.home.slot) && self.signal == other.signal
    }
}

thread_local! {
    /// The hits of the change that this thread is delivering; kept so that nothing is allocated.
    static HITS: Cell<Vec<Hit>> = const { Cell::new(Vec::new()) };
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

    /// Whether any watch in a branch, or in any, wants opening, reading and closing told. Watches are
    /// counted before they are in an index.
    #[inline]
    pub(crate) fn wants_activity(&self, branch: Option<BranchId>) -> bool {
        branch.map_or_else(
            || self.activity.has_any(),
            |branch| self.activity.has(branch),
        )
    }

    /// Hands `deliver` the watches that must hear a change: all of one queue together, in the order
    /// in which they hear it. On some mounts the kernel tells it, so nobody else does.
    #[inline]
    pub(crate) fn route(
        &self,
        envelope: &Envelope,
        by_kernel: &[MountId],
        mut deliver: impl FnMut(&Queue, &[Hit]),
    ) {
        if self.nodes.len() + self.trees.len() == 0 {
            return;
        }
        let mut hits = HITS.take();
        self.collect(envelope, by_kernel, &mut hits);
        if hits.len() > 1 {
            hits.sort_unstable_by_key(Hit::rank);
            hits.dedup_by(|a, b| a.repeats(b));
        }
        for of_queue in hits.chunk_by(|a, b| Arc::ptr_eq(&a.home.queue, &b.home.queue)) {
            if let Some(first) = of_queue.first() {
                deliver(&first.home.queue, of_queue);
            }
        }
        hits.clear();
        HITS.set(hits);
    }

    fn collect(&self, envelope: &Envelope, by_kernel: &[MountId], hits: &mut Vec<Hit>) {
        if self.nodes.len() > 0 {
            self.collect_nodes(envelope, by_kernel, hits);
        }
        if self.trees.len() > 0 {
            self.collect_trees(envelope, by_kernel, hits);
        }
    }

    fn collect_nodes(&self, envelope: &Envelope, by_kernel: &[MountId], hits: &mut Vec<Hit>) {
        let nodes = synth::nodes(&envelope.change);
        let mut tables = Tables::new(&envelope.change);
        for (at, node) in nodes.iter().enumerate() {
            let Some(node) = *node else { continue };
            if nodes[..at].contains(&Some(node)) {
                continue;
            }
            self.nodes.find(envelope.branch, node, |watch| {
                if !watch.since.is_too_old(envelope) {
                    let told = watch.since.is_told(by_kernel);
                    tables.ask(watch, |role| nodes[role.index()] == Some(node), told, hits);
                }
            });
        }
    }

    fn collect_trees(&self, envelope: &Envelope, by_kernel: &[MountId], hits: &mut Vec<Hit>) {
        let change = &envelope.change;
        let entries = fsevents::entries(change);
        let place = match (synth::place(change), synth::object(change)) {
            (None, Some(node)) if node.id != NodeId::ROOT => return,
            (place, _) => place,
        };
        let mut hear = |watch: &TreeWatch, at: fsevents::At| {
            if !watch.since.is_too_old(envelope) && !watch.since.is_told(by_kernel) {
                ask_tree(watch, change, &entries, at, hits);
            }
        };
        let (dir, name) = parts(place);
        self.trees.find(envelope.branch, dir, name, |watch| {
            hear(watch, fsevents::At::Old);
        });
        if let Change::Renamed { to, .. } = change {
            self.trees
                .find(envelope.branch, &to.dir, &to.name, |watch| {
                    hear(watch, fsevents::At::New);
                });
        }
        if self.roots.has(envelope.branch) {
            self.collect_moved_roots(envelope, hits);
        }
    }

    /// The streams whose top, or a directory above it, was moved, removed or came to be.
    fn collect_moved_roots(&self, envelope: &Envelope, hits: &mut Vec<Hit>) {
        let mut moved = |place: &Place| {
            self.trees
                .find_below(envelope.branch, &place.dir, &place.name, |watch| {
                    if !watch.since.is_too_old(envelope) {
                        hits.push(Hit {
                            home: watch.home.clone(),
                            order: u8::MAX,
                            signal: Signal::RootChanged,
                        });
                    }
                });
        };
        match &envelope.change {
            Change::Created { at, .. } | Change::Removed { at, .. } => moved(at),
            Change::Renamed { from, to, .. } => {
                moved(from);
                moved(to);
            }
            Change::Written { .. }
            | Change::Resized { .. }
            | Change::Attributes { .. }
            | Change::Xattr { .. }
            | Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::Closed { .. } => {}
        }
    }

    /// The news of a change: a rename gets a cookie, in the half of the numbers that the kernel will
    /// hardly come to.
    #[inline]
    pub(crate) fn news<'a>(&self, envelope: &'a Envelope, flags: u32) -> News<'a> {
        let cookie = if synth::new_place(&envelope.change).is_some() {
            0x8000_0000 | self.cookies.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
        } else {
            0
        };
        News {
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
        if watch.activity || watch.api == Api::FsEvents {
            self.activity.add(watch.branch);
        }
        if watch.flags & CREATE_WATCH_ROOT != 0 {
            self.roots.add(watch.branch);
        }
        self.trees.insert(watch);
    }

    fn remove_tree(&self, watch: &TreeWatch) {
        if watch.activity || watch.api == Api::FsEvents {
            self.activity.remove(watch.branch);
        }
        if watch.flags & CREATE_WATCH_ROOT != 0 {
            self.roots.remove(watch.branch);
        }
        self.trees.remove(watch);
    }

    /// Takes a watch out of the indexes.
    pub(crate) fn remove(&self, queue: &Arc<Queue>, slot: Slot, target: &Target, interest: u32) {
        match target {
            Target::Node(node) => {
                self.count_interest((queue.api, queue.branch), interest, 0);
                self.nodes.remove(queue.branch, *node, queue, slot);
            }
            Target::Trees(watches) => watches.iter().for_each(|watch| self.remove_tree(watch)),
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

/// What each API says of one change, made when the first watch of that API is met.
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

    /// Adds what a watch on a node hears, the node being in the roles that `plays` says.
    #[inline]
    fn ask(
        &mut self,
        watch: &NodeWatch,
        plays: impl Fn(Role) -> bool,
        told: bool,
        hits: &mut Vec<Hit>,
    ) {
        let mut hit = |order, signal| {
            hits.push(Hit {
                home: watch.home.clone(),
                order,
                signal,
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
                        Heard::Ignored if told => hit(order, Signal::Ended),
                        heard @ (Heard::Event | Heard::LastEvent | Heard::Ignored) => {
                            if !told {
                                hit(order, Signal::Inotify(*step, heard));
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
        if told {
            return;
        }
        for (order, post) in (0..).zip(posts.iter()).filter(|(_, post)| plays(post.role)) {
            let hint = vnode::hear(watch.interest, post);
            if hint != 0 {
                hit(order, Signal::Vnode(post.role, hint));
            }
        }
    }
}

/// Adds what the watch of a tree hears, in which the old or the new name lies.
fn ask_tree(
    watch: &TreeWatch,
    change: &Change,
    entries: &[fsevents::Entry],
    at: fsevents::At,
    hits: &mut Vec<Hit>,
) {
    let mut hit = |order, signal| {
        hits.push(Hit {
            home: watch.home.clone(),
            order,
            signal,
        });
    };
    match watch.api {
        Api::FsEvents => {
            for (order, entry) in (0..).zip(entries).filter(|(_, entry)| entry.at == at) {
                hit(order, Signal::FsEvents(*entry, watch.flags));
            }
        }
        Api::Native => {
            if native::hears(change, watch.activity) {
                hit(0, Signal::Native);
            }
        }
        Api::KqueueXnu | Api::KqueueFreeBsd | Api::Inotify => {}
    }
}

/// A name as directory and entry; the root has neither.
fn parts(place: Option<&Place>) -> (&[u8], &[u8]) {
    place.map_or((&[], &[]), |place| (&place.dir, &place.name))
}

impl Open {
    /// Tells the watches of this queue, and forgets those that are over. What is returned must leave
    /// the indexes.
    pub(crate) fn tell_all(
        &mut self,
        hits: &[Hit],
        news: News<'_>,
        freeze: crate::heal::Freeze<'_>,
        mut over: impl FnMut(Slot, crate::queue::WatchState),
    ) {
        for hit in hits {
            let slot = hit.home.slot;
            if self.tell(slot, &hit.signal, news, freeze)
                && let Some(state) = self.watches.remove(slot)
            {
                over(slot, state);
            }
        }
    }
}
