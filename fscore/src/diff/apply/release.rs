//! Releasing from the branch what was written to the host, which shows it from then on.

use super::execute::{Executor, Prepared};
use super::outcome::Action;
use super::plan::{Item, Plan, display, relative};
use crate::branch::served_versions::ServedVersions;
use crate::branch::state::State;
use crate::diff::steps::{Named, Step};
use crate::lower::{Fingerprint, Lower};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::ops::lower_change::AppliedChange;
use crate::store::dir::{Entry, Link};
use crate::store::inode::Inode;
use crate::store::tree::Tree;

impl Tree {
    /// Removes the branch's own entry, because the host has under this name what the branch shows
    /// there.
    pub(super) fn release_name(&mut self, dir: NodeId, name: &Name, node: NodeId) {
        let case = self.shared.config.case_sensitivity;
        let Ok(entries) = self.entries_mut(dir, name) else {
            return;
        };
        let leads_there = entries
            .find(name, case)
            .is_some_and(|(_, entry)| entry.leads_to(node));
        if leads_there && entries.merges_lower {
            entries.remove(name, case);
        }
    }

    /// Removes a whiteout, because the host no longer has the name.
    pub(super) fn release_whiteout(&mut self, dir: NodeId, name: &Name) {
        let case = self.shared.config.case_sensitivity;
        let Ok(entries) = self.entries_mut(dir, name) else {
            return;
        };
        let is_hidden = entries
            .find(name, case)
            .is_some_and(|(_, entry)| entry.link == Link::Whiteout);
        if is_hidden {
            entries.remove(name, case);
        }
    }

    /// Hides a name that an object has on the host only for a while, on its way to the one that the
    /// branch shows.
    pub(super) fn hide_aside(&mut self, dir: NodeId, name: &Name) {
        let case = self.shared.config.case_sensitivity;
        let Ok(entries) = self.entries_mut(dir, name) else {
            return;
        };
        if entries.find(name, case).is_none() {
            let (name, link) = (name.clone(), Link::Whiteout);
            entries.set(Entry { name, link }, case);
        }
    }

    /// Merges a directory that the branch created with the host's, which is there now. Its entries
    /// follow in later steps.
    pub(super) fn release_dir(&mut self, node: NodeId) {
        if let Some(entries) = self.inode_mut(node).ok().and_then(|it| it.as_dir_mut()) {
            entries.merges_lower = true;
        }
    }

    /// Releases an object, because the host has it as the branch shows it.
    pub(super) fn release_object(&mut self, node: NodeId) {
        self.forget(node);
        self.forget_seen(node);
    }
}

impl Executor<'_> {
    /// Releases from the branch what the host has now, step by step, and returns the steps.
    pub(super) fn release(&mut self, plan: &Plan, state: &mut State) -> Vec<Action> {
        for (name, node) in &plan.already_there {
            self.release_already_there(state, name.as_ref(), *node, true);
        }
        let mut actions = Vec::new();
        for prepared in std::mem::take(&mut self.prepared) {
            let Some(item) = prepared.item else { continue };
            self.release_step(state, item, &prepared);
            actions.push(item.action.clone());
        }
        actions
    }

    /// Returns what the steps have changed, for the other branches. To be called before the steps are
    /// [released](Self::release).
    pub(super) fn changes(&self) -> Vec<AppliedChange> {
        let items = self.prepared.iter().filter_map(|prepared| prepared.item);
        items.flat_map(|item| self.changes_of(item)).collect()
    }

    fn changes_of(&self, item: &Item) -> Vec<AppliedChange> {
        let kind_of = |node| self.lower.kind_of(node).unwrap_or(ObjectKind::File);
        let gone = item.replaces.map(|node| (node, kind_of(node)));
        let path = || item.action.path().to_owned();
        vec![match (&item.action, &item.step) {
            (Action::SetAttributes(_), _) => AppliedChange::Attributes(path()),
            (_, Step::Removed(named)) => {
                AppliedChange::Removed(path(), (named.node, kind_of(named.node)))
            }
            (_, Step::Added(named)) => AppliedChange::Created(path(), gone, kind_of(named.node)),
            (Action::Rename(from, _), Step::Renamed(_, to)) => {
                AppliedChange::Renamed(from.clone(), path(), gone, kind_of(to.node))
            }
            (_, Step::Modified(node, _)) => return self.written(*node),
            (_, Step::Renamed(..)) => return Vec::new(),
        }]
    }

    /// Returns that a file has new content under each of its names.
    fn written(&self, node: NodeId) -> Vec<AppliedChange> {
        let names = self.names_of(node).into_iter();
        let paths = names.filter_map(|(dir, name)| self.new.path_in(dir, &name));
        let paths = paths.map(|path| display(&relative(&path)));
        paths.map(AppliedChange::Written).collect()
    }

    fn release_step(&mut self, state: &mut State, item: &Item, prepared: &Prepared<'_>) {
        let node = item.step.node();
        if let (Some(_), Some(on_host)) = (item.only, item.replaces) {
            return self.release_completed(state, &item.step, on_host);
        }
        match &item.step {
            Step::Added(named) if named.is_dir => {
                state.tree.release_dir(node);
                state.tree.release_name(named.dir, &named.name, node);
            }
            Step::Added(named) => {
                if let Some(replaced) = item.replaces {
                    state.tree.record_own_move(replaced);
                }
                if prepared.is_link {
                    self.has_moved(state, node);
                } else {
                    self.record_placed(state, node, prepared.staged);
                }
                state.tree.release_name(named.dir, &named.name, node);
                self.expect_as_left(node);
            }
            Step::Removed(named) => state.tree.release_whiteout(named.dir, &named.name),
            Step::Renamed(from, to) => {
                if let Some(replaced) = item.replaces {
                    state.tree.record_own_move(replaced);
                }
                self.has_moved(state, node);
                state.tree.release_whiteout(from.dir, &from.name);
                state.tree.release_name(to.dir, &to.name, node);
                if self.is_aside(to) {
                    state.tree.hide_aside(to.dir, &to.name);
                }
            }
            Step::Modified(_, differs) if differs.content => {
                self.record_placed(state, node, prepared.staged);
                self.expect_as_left(node);
            }
            Step::Modified(..) => {}
        }
        let is_last = self.is_last(node);
        let is_dir = self.new.inode(node).is_ok_and(|inode| inode.is_dir());
        if is_last && !is_dir && !matches!(item.step, Step::Removed(_)) {
            show_applied(self.served, self.lower, self.new, node);
            state.tree.release_object(node);
        } else {
            state.tree.record_own_move(node);
        }
    }

    /// Returns whether an object has this name only for a while, on its way to the one that the
    /// branch shows.
    fn is_aside(&self, to: &Named) -> bool {
        let dir = self.new.inode(to.dir);
        let found = dir.and_then(|dir| self.new.lookup(to.dir, &dir, &to.name));
        !found.is_ok_and(|found| found.is_some_and(|found| found.node == to.node))
    }

    /// Counts a step that was made for an object; returns whether it was the last one.
    fn is_last(&mut self, node: NodeId) -> bool {
        self.pending.get_mut(&node).is_none_or(|left| {
            *left -= 1;
            *left == 0
        })
    }

    /// Releases an object of which only attributes were set: the host had its content.
    fn release_completed(&mut self, state: &mut State, step: &Step, on_host: NodeId) {
        if let (Some(now), Some(expected)) = (
            self.lower.fingerprint_of(on_host),
            self.expected.get_mut(&on_host),
        ) && now.is_same_content(&expected.fingerprint)
        {
            expected.fingerprint = now;
        }
        let name = match step {
            Step::Added(named) => Some((named.dir, named.name.clone())),
            Step::Removed(_) | Step::Renamed(..) | Step::Modified(..) => None,
        };
        let is_last = self.is_last(step.node());
        self.release_already_there(state, name.as_ref(), step.node(), is_last);
    }

    /// Records that an object was put on the host: further steps about it are based on that.
    fn record_placed(&self, state: &mut State, node: NodeId, staged: Option<Fingerprint>) {
        let is_own = |now: Fingerprint| staged.is_some_and(|own| now.is_same_content(&own));
        if self.lower.fingerprint_of(node).is_some_and(is_own)
            && let Ok(now) = self.lower.inode(node)
        {
            let xattrs = self.lower.xattrs(node).unwrap_or_default();
            state.tree.see(
                node,
                &Inode {
                    xattrs,
                    ..now.into()
                },
            );
        }
    }

    /// Records that an object has another name on the host, in the version that the comparison
    /// found.
    fn has_moved(&self, state: &mut State, node: NodeId) {
        if let Some(expected) = self.expected.get(&node) {
            state
                .tree
                .record_own_move_of(node, expected.fingerprint.version());
        }
    }

    /// Releases a name that the host has already. The object is released with the last step that is
    /// about it.
    fn release_already_there(
        &self,
        state: &mut State,
        name: Option<&(NodeId, Name)>,
        node: NodeId,
        is_last: bool,
    ) {
        let mut on_host = node;
        if let Some((dir, name)) = name {
            on_host = self.lower.seen_as(*dir, name).unwrap_or(node);
            state.tree.release_name(*dir, name, node);
        }
        if let Some(expected) = self.expected.get(&on_host) {
            // The host's object was found to have the content that the branch has shown.
            self.served.content(on_host, expected.fingerprint.version());
        }
        if !is_last {
            return;
        }
        if state.handles.is_open(node) && self.lower.fingerprint_of(node).is_none() {
            // It stays open as a file without a name.
            if let Ok(inode) = state.tree.inode_mut(node) {
                inode.nlink = 0;
                inode.names = crate::model::names::Names::None;
            }
            state.tree.set_orphan(node, false);
        } else {
            state.tree.release_object(node);
        }
    }
}

/// Records that the branch has shown what it put on the host, so that its next change is based on
/// that.
pub(super) fn show_applied(served: &ServedVersions, lower: &Lower, new: &Tree, node: NodeId) {
    let Ok(own) = new.inode(node) else {
        return;
    };
    if matches!(own.kind(), ObjectKind::File | ObjectKind::Symlink)
        && let Some(now) = lower.fingerprint_of(node)
        && now.version().has_bytes_of(&own.stamp())
    {
        served.content(node, now.version());
    }
}
