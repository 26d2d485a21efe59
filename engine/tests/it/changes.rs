//! Changes as FsCore emits them. `n` in the directory P is the object O; E is another directory,
//! and T is what a rename replaces.

use std::sync::Arc;

use agentfs_core::event::{
    Attributes, Change, CreatedBy, NodeRef, ObjectKind, Place, RenameHow, ResizedBy, SizeChange,
};
use agentfs_core::id::NodeId;
use agentfs_engine::synth;

pub(crate) const P: NodeId = NodeId(10);
pub(crate) const E: NodeId = NodeId(11);
pub(crate) const O: NodeId = NodeId(20);
pub(crate) const T: NodeId = NodeId(21);

pub(crate) use ObjectKind::{Directory as DIR, File as FILE, Symlink as SYMLINK};

/// Returns an object with so many names. `open` says whether a handle holds it.
pub(crate) fn node(id: NodeId, kind: ObjectKind, nlink: u32, open: bool) -> NodeRef {
    NodeRef {
        id,
        kind,
        nlink,
        open,
    }
}

pub(crate) fn object(kind: ObjectKind) -> NodeRef {
    let nlink = if kind == DIR { 2 } else { 1 };
    node(O, kind, nlink, false)
}

pub(crate) fn place(parent: NodeId, name: &str) -> Place {
    let dir: &[u8] = if parent == P { b"/p" } else { b"/e" };
    Place {
        parent,
        dir: dir.into(),
        name: name.as_bytes().into(),
    }
}

fn n() -> Option<Place> {
    Some(place(P, "n"))
}

pub(crate) fn created(kind: ObjectKind) -> Change {
    Change::Created {
        node: object(kind),
        at: place(P, "n"),
        by: CreatedBy::New,
    }
}

/// Returns the change by which O gets a second name `new` in a directory.
pub(crate) fn linked(parent: NodeId) -> Change {
    Change::Created {
        node: node(O, FILE, 2, false),
        at: place(parent, "new"),
        by: CreatedBy::Link,
    }
}

pub(crate) fn removed(node: NodeRef) -> Change {
    Change::Removed {
        node,
        at: place(P, "n"),
    }
}

pub(crate) fn written(size: SizeChange) -> Change {
    Change::Written {
        node: object(FILE),
        at: n(),
        size,
    }
}

pub(crate) fn resized(by: ResizedBy, size: SizeChange) -> Change {
    Change::Resized {
        node: object(FILE),
        at: n(),
        size,
        by,
    }
}

pub(crate) fn mode(kind: ObjectKind) -> Change {
    let set = Attributes {
        mode: true,
        ..Attributes::default()
    };
    attributes(kind, set)
}

pub(crate) fn owner() -> Change {
    let set = Attributes {
        owner: true,
        ..Attributes::default()
    };
    attributes(FILE, set)
}

pub(crate) fn times(atime: bool, mtime: bool) -> Change {
    let set = Attributes {
        atime,
        mtime,
        ..Attributes::default()
    };
    attributes(FILE, set)
}

fn attributes(kind: ObjectKind, set: Attributes) -> Change {
    Change::Attributes {
        node: object(kind),
        at: n(),
        set,
    }
}

pub(crate) fn xattr(kind: ObjectKind, removed: bool) -> Change {
    Change::Xattr {
        node: object(kind),
        at: n(),
        removed,
    }
}

pub(crate) fn opened(kind: ObjectKind) -> Change {
    Change::Opened {
        node: object(kind),
        at: n(),
    }
}

pub(crate) fn read(kind: ObjectKind) -> Change {
    Change::Read {
        node: object(kind),
        at: n(),
    }
}

pub(crate) fn closed(node: NodeRef, write: bool) -> Change {
    Change::Closed {
        node,
        at: n(),
        write,
        written: write,
    }
}

/// Returns the change by which P/n becomes `to`/m.
pub(crate) fn renamed(kind: ObjectKind, to: NodeId, how: RenameHow) -> Change {
    Change::Renamed {
        node: object(kind),
        from: place(P, "n"),
        to: place(to, "m"),
        how,
    }
}

/// Returns a rename that replaces an object of this kind, which afterwards has so many names.
pub(crate) fn over(kind: ObjectKind, nlink: u32, open: bool) -> RenameHow {
    RenameHow::Replaced(node(T, kind, nlink, open))
}

/// Returns the two events of an exchange: P/n and `to`/m change places.
pub(crate) fn exchanged(kind: ObjectKind, to: NodeId) -> [Change; 2] {
    let other = NodeRef {
        id: T,
        ..object(kind)
    };
    [
        renamed(kind, to, RenameHow::ExchangeFirst(other)),
        Change::Renamed {
            node: other,
            from: place(to, "m"),
            to: place(P, "n"),
            how: RenameHow::ExchangeSecond(object(kind)),
        },
    ]
}

/// Returns the letter of the node that has a role in a change.
pub(crate) fn letter(change: &Change, role: synth::Role) -> char {
    match synth::nodes(change)[role.index()] {
        Some(P) => 'P',
        Some(E) => 'E',
        Some(O) => 'O',
        Some(T) => 'T',
        other => panic!("{role:?} is {other:?}"),
    }
}

/// Returns the names of the bits of a mask.
pub(crate) fn bits(mask: u32, names: &[(u32, &str)]) -> String {
    let mut left = mask;
    let mut found = Vec::new();
    for (bit, name) in names {
        if left & bit == *bit {
            found.push(*name);
            left &= !bit;
        }
    }
    assert_eq!(left, 0, "bits without a name in {mask:#x}");
    found.join("|")
}

#[test]
fn an_entry_has_the_path_of_its_directory() {
    assert_eq!(place(P, "n").path().to_str(), Some("/p/n"));
    let shared: Arc<[u8]> = place(P, "n").dir;
    assert_eq!(&*shared, b"/p");
}
