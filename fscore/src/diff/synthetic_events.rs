//! Changes that stand for the steps between two trees, as if somebody had made these one by one.

use super::steps::{Differs, Named, Step};
use crate::model::event::{
    Attributes, Change, CreatedBy, NodeRef, ObjectKind, Place, RenameHow, ResizedBy, SizeChange,
};
use crate::model::id::NodeId;
use crate::store::dir_paths::DirPaths;
use crate::store::inode::Inode;
use crate::store::tree::Tree;
use crate::store::visibility::Visibility;

fn place(named: &Named) -> Place {
    Place {
        parent: named.dir,
        dir: named.dir_path.text.clone(),
        name: named.name.clone(),
    }
}

/// The events that tell of the steps.
pub(crate) fn changes(
    old: &Tree,
    new: &Tree,
    steps: Vec<Step>,
    is_open: &dyn Fn(NodeId) -> bool,
) -> Vec<Change> {
    let (shown_before, shown_now) = (Visibility::of(old), Visibility::of(new));
    let node_ref = |node: NodeId| {
        let now = shown_now.visible(node);
        let inode = now.or_else(|| shown_before.visible(node));
        NodeRef {
            id: node,
            kind: inode
                .as_ref()
                .map_or(ObjectKind::File, |inode| inode.kind()),
            nlink: shown_now.visible(node).map_or(0, |inode| inode.nlink),
            open: is_open(node),
        }
    };
    let mut paths = DirPaths::default();
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Removed(named) => all.push(Change::Removed {
                node: node_ref(named.node),
                at: place(&named),
            }),
            Step::Added(named) => all.push(Change::Created {
                node: node_ref(named.node),
                at: place(&named),
                by: match shown_before.visible(named.node) {
                    Some(_) => CreatedBy::Link,
                    None => CreatedBy::New,
                },
            }),
            Step::Renamed(from, to) => all.push(Change::Renamed {
                node: node_ref(to.node),
                from: place(&from),
                to: place(&to),
                how: RenameHow::Free,
            }),
            Step::Modified(node, differs) => {
                let node_ref = node_ref(node);
                let before = shown_before.visible(node);
                let after = shown_now.visible(node);
                if let (Some(before), Some(after)) = (before, after) {
                    let at = paths.place_of(new, &after);
                    modified(&mut all, node_ref, at, differs, (&before, &after));
                }
            }
        }
    }
    all
}

fn modified(
    all: &mut Vec<Change>,
    node: NodeRef,
    at: Option<Place>,
    differs: Differs,
    (before, after): (&Inode, &Inode),
) {
    if differs.content {
        let size = |inode: &Inode| inode.as_file().map_or(0, crate::store::content::File::size);
        let at = at.clone();
        all.push(match size(after).cmp(&size(before)) {
            std::cmp::Ordering::Less => Change::Resized {
                node,
                at,
                size: SizeChange::Shrank,
                by: ResizedBy::Truncate,
            },
            std::cmp::Ordering::Equal => Change::Written {
                node,
                at,
                size: SizeChange::Same,
            },
            std::cmp::Ordering::Greater => Change::Written {
                node,
                at,
                size: SizeChange::Grew,
            },
        });
    }
    if differs.mode || differs.owner || differs.mtime {
        all.push(Change::Attributes {
            node,
            at: at.clone(),
            set: Attributes {
                mode: differs.mode,
                owner: differs.owner,
                atime: false,
                mtime: differs.mtime,
            },
        });
    }
    if differs.xattrs {
        let removed = after.xattrs.is_none();
        all.push(Change::Xattr { node, at, removed });
    }
}
