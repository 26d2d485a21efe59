//! The difference of a branch to another state.

use std::path::Path;

use agentfs_core::event::{Change, NodeRef, ObjectKind, Place};
use agentfs_core::id::{BranchId, NodeId};
use agentfs_core::{Branch, FsCore, PathChange, Version, file_type};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{DiffEntry, DiffKind};

use crate::base::refusal::Refusal;
use crate::shared::branches::{Origins, branch_named, snapshot_named};

/// Compares a branch with another branch, a snapshot, or what it was made from.
pub(crate) fn find(
    core: &FsCore,
    origins: &Origins,
    branch: BranchId,
    against: &str,
) -> Result<Vec<DiffEntry>, Refusal> {
    let shown = core.branch(branch)?;
    if against.is_empty() {
        // A frozen branch knows its base, also after a restart.
        let base = origins.base(branch).or_else(|| shown.frozen_base());
        let base = base.ok_or_else(|| {
            Refusal::not_found("it is not known what the branch was made from; use --against")
        })?;
        let changes = shown.own_changes_since(&base)?;
        return Ok(merged(
            changes.iter().filter_map(|change| entry_of(&shown, change)),
        ));
    }
    let old = match branch_named(core, against) {
        Ok(other) => Version::Branch(other),
        Err(_) => Version::Snapshot(snapshot_named(core, against).map_err(|_| {
            Refusal::not_found(format!("there is no branch or snapshot {against}"))
        })?),
    };
    let mut changes = core.diff(old, Version::Branch(branch))?;
    let listed = changes.by_ref();
    let mut entries = merged(listed.map(|change| entry_of_path(&shown, change)));
    if changes.too_deep() > 0 {
        entries.push(too_deep(b""));
    }
    Ok(entries)
}

/// Merges successive changes of one path into one difference: the greatest.
fn merged(entries: impl Iterator<Item = DiffEntry>) -> Vec<DiffEntry> {
    let mut all: Vec<DiffEntry> = Vec::new();
    for entry in entries {
        let is_change = matches!(entry.kind, DiffKind::Content | DiffKind::Attributes);
        match all.last_mut() {
            // One entry is enough for everything that lies too deep below one directory.
            Some(last) if entry.kind == DiffKind::TooDeep && *last == entry => {}
            Some(last)
                if is_change && last.path == entry.path && last.kind != DiffKind::Removed =>
            {
                if last.kind == DiffKind::Attributes {
                    last.kind = entry.kind;
                }
            }
            _ => all.push(entry),
        }
    }
    all
}

/// Creates the entry that stands for what lies too deep below a directory for a path.
fn too_deep(dir: &[u8]) -> DiffEntry {
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    let path = if dir.is_empty() { b"/" } else { dir };
    DiffEntry {
        kind: DiffKind::TooDeep,
        mode: file_type(ObjectKind::Directory),
        size: 0,
        path: path.into(),
        from: Bytes::default(),
    }
}

/// Returns the names that a change is about.
fn places(change: &Change) -> impl Iterator<Item = &Place> {
    let both = [change.place(), change.new_place()];
    both.into_iter().flatten()
}

fn entry_of(branch: &Branch, change: &Change) -> Option<DiffEntry> {
    if let Some(place) = places(change).find(|it| it.is_cut()) {
        return Some(too_deep(&place.dir));
    }
    let path = |place: &Place| Bytes::from(place.path().as_path());
    let changed = |kind, node: &NodeRef, at: &Option<Place>| {
        let path = at.as_ref().map_or_else(|| b"/".into(), path);
        Some(entry(
            branch,
            kind,
            node.id,
            file_type(node.kind),
            path,
            Bytes::default(),
        ))
    };
    match change {
        Change::Created { node, at, .. } => changed(DiffKind::Added, node, &Some(at.clone())),
        Change::Removed { node, at } => changed(DiffKind::Removed, node, &Some(at.clone())),
        Change::Written { node, at, .. } | Change::Resized { node, at, .. } => {
            changed(DiffKind::Content, node, at)
        }
        Change::Attributes { node, at, .. } | Change::Xattr { node, at, .. } => {
            changed(DiffKind::Attributes, node, at)
        }
        Change::Renamed { node, from, to, .. } => {
            let kind = file_type(node.kind);
            Some(entry(
                branch,
                DiffKind::Renamed,
                node.id,
                kind,
                path(to),
                path(from),
            ))
        }
        Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. }
        | Change::Opened { .. }
        | Change::Read { .. }
        | Change::Closed { .. } => None,
    }
}

fn entry_of_path(branch: &Branch, change: PathChange) -> DiffEntry {
    let bytes = |path: &Path| Bytes::from(path);
    let none = Bytes::default;
    match change {
        PathChange::Added { path, node, kind } => entry(
            branch,
            DiffKind::Added,
            node,
            file_type(kind),
            bytes(&path),
            none(),
        ),
        PathChange::Removed { path, node, kind } => entry(
            branch,
            DiffKind::Removed,
            node,
            file_type(kind),
            bytes(&path),
            none(),
        ),
        PathChange::Renamed {
            from,
            to,
            node,
            kind,
        } => entry(
            branch,
            DiffKind::Renamed,
            node,
            file_type(kind),
            bytes(&to),
            bytes(&from),
        ),
        PathChange::Modified {
            path,
            node,
            kind,
            differs,
        } => {
            let how = if differs.content {
                DiffKind::Content
            } else {
                DiffKind::Attributes
            };
            entry(branch, how, node, file_type(kind), bytes(&path), none())
        }
    }
}

/// Creates an entry, with the attributes of the node if the branch still has it.
fn entry(
    branch: &Branch,
    kind: DiffKind,
    node: NodeId,
    file_type: u32,
    path: Bytes,
    from: Bytes,
) -> DiffEntry {
    let attr = branch
        .getattr(node)
        .ok()
        .filter(|_| kind != DiffKind::Removed);
    let (mode, size) = attr.map_or((file_type, 0), |attr| (attr.st_mode(), attr.size));
    DiffEntry {
        kind,
        mode,
        size,
        path,
        from,
    }
}
