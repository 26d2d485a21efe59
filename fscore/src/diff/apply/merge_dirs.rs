//! Merging directories that both the branch and the host have created.
//!
//! A directory that the branch created at a name where the host has one becomes the host's
//! directory. What the branch put into it is laid over what is there, and only names that the
//! branch saw there and removed are hidden. So nothing that others put there is ever removed with
//! it.

use std::collections::HashSet;

use crate::branch::state::State;
use crate::lower::Lower;
use crate::model::errno::Result;
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::store::dir::{Dir, Entry, Link};
use crate::store::inode::{Body, Inode};
use crate::store::tree::Tree;
use crate::store::visibility::visible;

/// A directory of the branch that became one of the host's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merged {
    made: NodeId,
    host: NodeId,
}

/// Merges the directories that can be merged, and returns those.
pub(super) fn merge_dirs(tree: &mut Tree, lower: &Lower) -> Result<Vec<Merged>> {
    let mut merged = Vec::new();
    let mut open = vec![NodeId::ROOT];
    while let Some(dir) = open.pop() {
        let is_on_host = lower.fingerprint_of(dir).is_some();
        for (name, child) in own_dirs(tree, dir) {
            let is_made = tree.is_own(child) && lower.fingerprint_of(child).is_none();
            if is_made
                && is_on_host
                && let Some(found) = lower.lookup(dir, &name)?
                && found.kind.is_dir()
                // The branch may have moved it elsewhere.
                && visible(tree, found.node).is_none()
            {
                merge(tree, lower, (dir, &found.name), child, found.node)?;
                merged.push(Merged {
                    made: child,
                    host: found.node,
                });
                open.push(found.node);
            } else if tree.is_own(child) {
                open.push(child);
            }
        }
    }
    Ok(merged)
}

/// Returns the directories to which the branch's own entries of a directory lead.
fn own_dirs(tree: &Tree, dir: NodeId) -> Vec<(Name, NodeId)> {
    let Ok(inode) = tree.inode(dir) else {
        return Vec::new();
    };
    let entries = inode.as_dir().map(Dir::entries).into_iter();
    let entries = entries.flat_map(crate::store::trie::Trie::iter);
    entries
        .filter_map(|(_, entry)| match entry.link {
            Link::To(node, ObjectKind::Directory) => Some((entry.name.clone(), node)),
            Link::To(..) | Link::Whiteout => None,
        })
        .collect()
}

fn merge(
    tree: &mut Tree,
    lower: &Lower,
    (dir, name): (NodeId, &Name),
    made: NodeId,
    host: NodeId,
) -> Result<()> {
    let case = tree.shared.config.case_sensitivity;
    let mut inode = tree.inode(made)?.into_owned();
    if tree.seen().get(host.0).is_none() {
        // Another program has created the directory since. It keeps the attributes that it has.
        let theirs = Inode {
            xattrs: lower.xattrs(host)?,
            ..lower.inode(host)?.into()
        };
        tree.see(host, &theirs);
        inode.mode = theirs.mode;
        (inode.uid, inode.gid) = (theirs.uid, theirs.gid);
        inode.xattrs = theirs.xattrs;
    }
    inode.names = Names::One(dir, name.clone());
    let mut children = Vec::new();
    if let Body::Dir(entries) = &mut inode.body {
        entries.merges_lower = true;
        for found in lower.list(host)? {
            let was_seen = tree.seen().get(found.node.0).is_some();
            if was_seen && entries.find(&found.name, case).is_none() {
                let (name, link) = (found.name, Link::Whiteout);
                entries.set(Entry { name, link }, case);
            }
        }
        let own = entries.entries().iter();
        children.extend(own.filter_map(|(_, entry)| match entry.link {
            Link::To(child, _) => Some((child, entry.name.clone())),
            Link::Whiteout => None,
        }));
    }
    for (child, name) in children {
        if let Ok(child) = tree.inode_mut(child) {
            child.names.remove(made, &name);
            child.names.add(host, name);
        }
    }
    tree.clear_orphan(host);
    tree.forget(made);
    tree.add(host, inode);
    tree.set_entry(dir, name, host, ObjectKind::Directory)
}

/// Makes the branch show the merged tree. Objects that are open in a merged directory are in the
/// host's directory from now on. The merged directory itself, if it is open, becomes one without a
/// name.
pub(super) fn install(state: &mut State, mut whole: Tree, merged: &[Merged]) {
    for Merged { made, .. } in merged {
        if state.handles.is_open(*made)
            && let Ok(inode) = state.tree.inode(*made)
        {
            let mut inode = inode.into_owned();
            inode.nlink = 0;
            inode.names = Names::None;
            inode.body = Body::Dir(Box::<Dir>::default());
            whole.add(*made, inode);
            whole.set_orphan(*made, false);
        }
    }
    let hosts: HashSet<NodeId> = merged.iter().map(|it| it.host).collect();
    let open: Vec<NodeId> = state.handles.open_nodes().collect();
    for node in open {
        let names = whole.inode(node).map(|inode| inode.names.clone());
        if let Ok(names) = names
            && names.iter().any(|(dir, _)| hosts.contains(&dir))
        {
            state.handles.follow(node, &names, None);
        }
    }
    state.tree.replace(whole);
}
