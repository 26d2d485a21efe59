//! Pure tables: what the API of a watch says of a change.
//!
//! A change touches at most four nodes, each in one [`Role`]. For every API one function turns a
//! change into a short list of what a kernel would say to the watchers of each role, in the
//! kernel's order, and one rule decides which items of the list a watch hears. Nothing here
//! allocates, takes a lock or looks at the filesystem.

pub mod fsevents;
pub mod inotify;
pub mod native;
pub mod vnode;
pub mod vnode_freebsd;
pub mod vnode_xnu;

use std::ops::Deref;

use agentfs_core::event::{Change, RenameHow};
use agentfs_core::id::NodeId;
use agentfs_proto::record::{Kind, flags};

/// The part that a node has in a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Role {
    /// The node that was changed.
    #[default]
    Object,
    /// The directory of its name; for a rename, of the old name.
    Parent,
    /// The directory of the new name of a rename.
    NewParent,
    /// The node that lost its name to a rename, or the other node of an exchange.
    Replaced,
}

impl Role {
    /// Returns a number below 4 that is different for each role.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Object => 0,
            Self::Parent => 1,
            Self::NewParent => 2,
            Self::Replaced => 3,
        }
    }
}

/// Returns the nodes of a change, by [`Role::index`].
#[must_use]
#[inline]
pub fn nodes(change: &Change) -> [Option<NodeId>; 4] {
    [
        change.object().map(|node| node.id),
        change.place().map(|place| place.parent),
        change.new_place().map(|place| place.parent),
        change.replaced().map(|node| node.id),
    ]
}

/// Returns the kind of the records of a change, which is the same for every API.
#[must_use]
pub fn kind(change: &Change) -> Kind {
    match change {
        Change::Created { .. } => Kind::CREATED,
        Change::Removed { .. } => Kind::REMOVED,
        Change::Written { .. }
        | Change::Resized { .. }
        | Change::Attributes { .. }
        | Change::Xattr { .. } => Kind::MODIFIED,
        Change::Renamed { .. } => Kind::RENAMED,
        Change::BranchCreated { .. } => Kind::BRANCH_CREATED,
        Change::SnapshotCreated { .. } => Kind::SNAPSHOT_CREATED,
        Change::Opened { .. } => Kind::OPENED,
        Change::Read { .. } => Kind::READ,
        Change::Closed { .. } => Kind::CLOSED,
    }
}

/// Returns the [`flags`] of the records of a change.
#[must_use]
pub fn record_flags(change: &Change) -> u32 {
    let of_node = change.object().map_or(0, |node| {
        let directory = if node.kind.is_dir() {
            flags::DIRECTORY
        } else {
            0
        };
        let last_name = if node.nlink == 0 { flags::LAST_NAME } else { 0 };
        directory | last_name
    });
    let of_change = match change {
        Change::Attributes { .. } | Change::Xattr { .. } => flags::ATTRIBUTES,
        Change::Renamed {
            how: RenameHow::ExchangeFirst(_) | RenameHow::ExchangeSecond(_),
            ..
        } => flags::EXCHANGE,
        Change::Created { .. }
        | Change::Removed { .. }
        | Change::Written { .. }
        | Change::Resized { .. }
        | Change::Renamed { .. }
        | Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. }
        | Change::Opened { .. }
        | Change::Read { .. }
        | Change::Closed { .. } => 0,
    };
    of_node | of_change
}

/// A list of at most `N` values that lives on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> Short<T, N> {
    /// Creates a list of these items, of which there are at most `N`.
    pub(crate) fn of(items: &[T]) -> Self {
        let mut list = Self::default();
        for item in items {
            list.push(*item);
        }
        list
    }

    pub(crate) fn push(&mut self, item: T) {
        self.items[self.len] = item;
        self.len += 1;
    }
}

impl<T: Copy + Default, const N: usize> Default for Short<T, N> {
    fn default() -> Self {
        Self {
            items: [T::default(); N],
            len: 0,
        }
    }
}

impl<T, const N: usize> Deref for Short<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}
