//! Questions to a [`Change`], so that its variants are matched in one place only.

use super::{Change, CreatedBy, NodeRef, ObjectKind, Place, RenameHow};
use crate::model::id::NodeId;

impl Change {
    /// Returns the object that changed. A new branch or snapshot is none.
    #[must_use]
    #[inline]
    pub fn object(&self) -> Option<&NodeRef> {
        match self {
            Self::Created { node, .. }
            | Self::Removed { node, .. }
            | Self::Written { node, .. }
            | Self::Resized { node, .. }
            | Self::Attributes { node, .. }
            | Self::Xattr { node, .. }
            | Self::Renamed { node, .. }
            | Self::Opened { node, .. }
            | Self::Read { node, .. }
            | Self::Closed { node, .. } => Some(node),
            Self::BranchCreated { .. } | Self::SnapshotCreated { .. } => None,
        }
    }

    /// Returns the name by which the object was reached; for a rename, the old name.
    #[must_use]
    #[inline]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Created { at, .. } | Self::Removed { at, .. } => Some(at),
            Self::Renamed { from, .. } => Some(from),
            Self::Written { at, .. }
            | Self::Resized { at, .. }
            | Self::Attributes { at, .. }
            | Self::Xattr { at, .. }
            | Self::Opened { at, .. }
            | Self::Read { at, .. }
            | Self::Closed { at, .. } => at.as_ref(),
            Self::BranchCreated { .. } | Self::SnapshotCreated { .. } => None,
        }
    }

    /// Returns the new name of a rename.
    #[must_use]
    #[inline]
    pub fn new_place(&self) -> Option<&Place> {
        if let Self::Renamed { to, .. } = self {
            Some(to)
        } else {
            None
        }
    }

    /// Returns the object that lost its name to a rename, or the other object of an exchange.
    #[must_use]
    #[inline]
    pub fn replaced(&self) -> Option<&NodeRef> {
        let Self::Renamed { how, .. } = self else {
            return None;
        };
        match how {
            RenameHow::Free => None,
            RenameHow::Replaced(other)
            | RenameHow::ExchangeFirst(other)
            | RenameHow::ExchangeSecond(other) => Some(other),
        }
    }

    /// Returns whether a name was created, removed or moved.
    #[must_use]
    #[inline]
    pub fn is_of_names(&self) -> bool {
        matches!(
            self,
            Self::Created { .. } | Self::Removed { .. } | Self::Renamed { .. }
        )
    }

    /// Returns whether this is opening, reading or closing, which FsCore emits only for sinks that
    /// [want it](super::EventSink::wants_activity).
    #[must_use]
    #[inline]
    pub fn is_activity(&self) -> bool {
        matches!(
            self,
            Self::Opened { .. } | Self::Read { .. } | Self::Closed { .. }
        )
    }

    /// Returns whether a file has other content afterwards; a new file counts, a new name does not.
    #[must_use]
    #[inline]
    pub fn brings_content(&self) -> bool {
        match self {
            Self::Created { node, by, .. } => {
                *by == CreatedBy::New && node.kind == ObjectKind::File
            }
            Self::Written { .. } | Self::Resized { .. } => true,
            Self::Removed { .. }
            | Self::Attributes { .. }
            | Self::Xattr { .. }
            | Self::Renamed { .. }
            | Self::BranchCreated { .. }
            | Self::SnapshotCreated { .. }
            | Self::Opened { .. }
            | Self::Read { .. }
            | Self::Closed { .. } => false,
        }
    }

    /// Returns the close of the handle that would have brought the content, if the change
    /// [brings any](Self::brings_content).
    ///
    /// Many programs watch for nothing but `IN_CLOSE_WRITE`. Restores, differences and changes of
    /// the host open no file, so whoever delivers such a change delivers this one after it.
    #[must_use]
    pub fn content_close(&self) -> Option<Self> {
        if !self.brings_content() {
            return None;
        }
        Some(Self::Closed {
            node: *self.object()?,
            at: self.place().cloned(),
            write: true,
            written: true,
        })
    }

    /// Returns the node that may be gone after this change: it lost a name, or a handle.
    /// [`NodeRef::is_gone`] says whether it is.
    #[must_use]
    pub fn may_end(&self) -> Option<NodeId> {
        match self {
            Self::Removed { node, .. } | Self::Closed { node, .. } => Some(node.id),
            Self::Renamed {
                how: RenameHow::Replaced(target),
                ..
            } => Some(target.id),
            Self::Renamed { .. }
            | Self::Created { .. }
            | Self::Written { .. }
            | Self::Resized { .. }
            | Self::Attributes { .. }
            | Self::Xattr { .. }
            | Self::Opened { .. }
            | Self::Read { .. }
            | Self::BranchCreated { .. }
            | Self::SnapshotCreated { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SizeChange;
    use super::*;

    fn node(id: u64, kind: ObjectKind) -> NodeRef {
        NodeRef {
            id: NodeId(id),
            kind,
            nlink: 1,
            open: false,
        }
    }

    fn place(name: &str) -> Place {
        Place {
            parent: NodeId::ROOT,
            dir: b"".as_slice().into(),
            name: name.as_bytes().into(),
        }
    }

    fn created(kind: ObjectKind, by: CreatedBy) -> Change {
        Change::Created {
            node: node(2, kind),
            at: place("a"),
            by,
        }
    }

    #[test]
    fn content_ends_with_a_close_by_the_same_name() {
        let close = Change::Closed {
            node: node(2, ObjectKind::File),
            at: Some(place("a")),
            write: true,
            written: true,
        };
        let file = created(ObjectKind::File, CreatedBy::New);
        assert_eq!(file.content_close(), Some(close));
        let written = Change::Written {
            node: node(2, ObjectKind::File),
            at: None,
            size: SizeChange::Grew,
        };
        let closed = written.content_close();
        assert_eq!(closed.as_ref().and_then(Change::place), None);
        assert_eq!(
            closed.as_ref().and_then(Change::may_end),
            Some(NodeId(2)),
            "{closed:?}"
        );
        for change in [
            created(ObjectKind::Directory, CreatedBy::New),
            created(ObjectKind::File, CreatedBy::Link),
        ] {
            assert_eq!(change.content_close(), None);
        }
    }

    #[test]
    fn a_rename_has_two_names_and_may_end_what_it_replaces() {
        let rename = |how| Change::Renamed {
            node: node(2, ObjectKind::File),
            from: place("a"),
            to: place("b"),
            how,
        };
        let other = node(3, ObjectKind::File);
        let replaced = rename(RenameHow::Replaced(other));
        assert_eq!(replaced.place(), Some(&place("a")));
        assert_eq!(replaced.new_place(), Some(&place("b")));
        assert_eq!(replaced.replaced(), Some(&other));
        assert_eq!(replaced.may_end(), Some(NodeId(3)));
        assert!(replaced.is_of_names() && !replaced.is_activity());
        let exchanged = rename(RenameHow::ExchangeFirst(other));
        assert_eq!(exchanged.replaced(), Some(&other));
        assert_eq!(exchanged.may_end(), None);
    }
}
