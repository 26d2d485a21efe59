//! The plan of applying a branch: the steps on the host, and the conflicts.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::outcome::Action;
use crate::diff::steps::{Differs, Named, Step};
use crate::lower::Lower;
use crate::lower::transaction::Expected;
use crate::model::errno::Result;
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::store::inode::Inode;
use crate::store::tree::Tree;

/// One step, as it is made on the host.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) step: Step,
    pub(super) action: Action,
    /// The host's object whose name this takes. It is no directory.
    pub(super) replaces: Option<NodeId>,
    /// If the host's object has the same content as the branch's, the attributes in which it
    /// differs: the object stays, and only these are set.
    pub(super) only: Option<Differs>,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    /// What the host changed since the branch saw it.
    pub(super) conflicts: Vec<PathBuf>,
    /// What the host put into directories that the branch removed, and those directories.
    pub(super) kept: Vec<PathBuf>,
    /// Those of the directories whose name the branch gave to something else, and directories that
    /// the host moved while the branch changed something in them.
    pub(super) blocked: Vec<PathBuf>,
    /// Names and objects that the host already has as in the branch, although they were created
    /// independently.
    pub(super) already_there: Vec<(Option<(NodeId, Name)>, NodeId)>,
    /// How the host had each object that the plan touches.
    pub(super) expected: HashMap<NodeId, Expected>,
}

pub(super) fn relative(bytes: &[u8]) -> Vec<u8> {
    bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()
}

pub(super) fn display(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

/// Returns where the new tree has a node, relative to the root.
pub(super) fn path_of(tree: &Tree, node: NodeId) -> Option<Vec<u8>> {
    if node == NodeId::ROOT {
        return Some(Vec::new());
    }
    let inode = tree.inode(node).ok()?;
    let (dir, name) = inode.names.first()?;
    Some(relative(&tree.path_in(dir, name)?))
}

impl Plan {
    /// Makes the plan from the steps that lead from what the host has to the new tree.
    pub(super) fn new(lower: &Lower, old: &Tree, new: &Tree, steps: &[Step]) -> Self {
        let comparison = Comparison { lower, old, new };
        let mut planner = Planner {
            takers: takers(steps),
            occupied: HashSet::new(),
            replaced: HashMap::new(),
            plan: Self {
                items: Vec::new(),
                conflicts: Vec::new(),
                kept: Vec::new(),
                blocked: Vec::new(),
                already_there: Vec::new(),
                expected: HashMap::new(),
            },
            comparison,
        };
        for step in steps {
            planner.expect(step);
            planner.add(step);
        }
        let mut plan = planner.plan;
        plan.conflicts.sort();
        plan.conflicts.dedup();
        plan.kept.sort();
        plan.blocked.sort();
        plan
    }
}

/// Returns the names that something new takes, and whether that is a directory.
fn takers(steps: &[Step]) -> HashMap<(NodeId, Name), bool> {
    let named = steps.iter().filter_map(|step| match step {
        Step::Added(named) | Step::Renamed(_, named) => Some(named),
        Step::Removed(_) | Step::Modified(..) => None,
    });
    named
        .map(|it| ((it.dir, it.name.clone()), it.is_dir))
        .collect()
}

#[derive(Clone, Copy, Debug)]
struct Comparison<'a> {
    lower: &'a Lower,
    /// What an untouched branch shows: the host as it is.
    old: &'a Tree,
    new: &'a Tree,
}

struct Planner<'a> {
    comparison: Comparison<'a>,
    takers: HashMap<(NodeId, Name), bool>,
    /// Directories in which something stays that others have put there.
    occupied: HashSet<NodeId>,
    /// The objects that are replaced, by name.
    replaced: HashMap<(NodeId, Name), NodeId>,
    plan: Plan,
}

impl Planner<'_> {
    /// Records how the host has the object that the step touches. This comes before the comparison
    /// with what the branch saw, so a change in between is found by one of the two.
    fn expect(&mut self, step: &Step) {
        let node = match step {
            Step::Removed(named) | Step::Added(named) | Step::Renamed(_, named) => named.node,
            Step::Modified(node, _) => *node,
        };
        if let Some(fingerprint) = self.comparison.lower.fingerprint_of(node) {
            let exact = !fingerprint.is_dir();
            self.plan
                .expected
                .entry(node)
                .or_insert(Expected { fingerprint, exact });
        }
    }

    fn add(&mut self, step: &Step) {
        match step {
            Step::Removed(named) => self.remove(named),
            Step::Renamed(from, to) => {
                let path = display(&relative(&to.path()));
                let replaced = self.replaced.get(&(to.dir, to.name.clone())).copied();
                let mut both = replaced.into_iter().chain([to.node]);
                let are_as_seen = both.all(|node| self.comparison.is_as_seen(node, None));
                self.conflict_unless(are_as_seen, &path);
                let was = display(&relative(&from.path()));
                self.item(step, Action::Rename(was, path), Some(to));
            }
            Step::Added(named) => self.create(step, named),
            Step::Modified(node, differs) => self.modify(*node, *differs),
        }
    }

    fn conflict_unless(&mut self, holds: bool, path: &std::path::Path) {
        if !holds {
            self.plan.conflicts.push(path.to_owned());
        }
    }

    fn item(&mut self, step: &Step, action: Action, to: Option<&Named>) {
        let taken = to.and_then(|to| self.replaced.remove(&(to.dir, to.name.clone())));
        self.plan.items.push(Item {
            step: step.clone(),
            action,
            replaces: taken,
            only: None,
        });
    }

    /// Plans to set attributes only, because the host's object has the content of the branch's.
    fn attributes(&mut self, step: &Step, path: PathBuf, on_host: NodeId, only: Differs) {
        let is_as_seen = self.comparison.has_attributes_as_seen(on_host, only);
        self.conflict_unless(is_as_seen, &path);
        self.plan.items.push(Item {
            step: step.clone(),
            action: Action::SetAttributes(path),
            replaces: Some(on_host),
            only: Some(only),
        });
    }

    /// Plans the removal of a name. What the branch never saw stays, and so does the directory that
    /// it is in.
    fn remove(&mut self, named: &Named) {
        let (node, path) = (named.node, display(&relative(&named.path())));
        let place = (named.dir, named.name.clone());
        let taker = self.takers.get(&place).copied();
        let is_own = self.comparison.new.seen().get(node.0).is_some();
        let all = Differs {
            mode: true,
            owner: true,
            xattrs: true,
            ..Differs::default()
        };
        let is_as_seen = self.comparison.is_as_seen(node, Some(all));
        if named.is_dir && self.occupied.contains(&node) {
            self.occupied.insert(named.dir);
            self.plan.conflicts.push(path.clone());
            match taker {
                Some(_) => self.plan.blocked.push(path),
                None => self.plan.kept.push(path),
            }
            return;
        }
        if taker == Some(false) && !named.is_dir {
            // Whether there is a conflict is decided with the object that takes the name.
            self.replaced.insert(place, node);
            return;
        }
        self.conflict_unless(is_as_seen, &path);
        if !is_own && taker.is_none() {
            self.occupied.insert(named.dir);
            self.plan.kept.push(path);
            return;
        }
        let Ok(kind) = self.comparison.old.inode(node).map(|inode| inode.kind()) else {
            return;
        };
        self.item(
            &Step::Removed(named.clone()),
            Action::Remove(path, kind),
            None,
        );
    }

    fn create(&mut self, step: &Step, named: &Named) {
        let new = self.comparison.new;
        let (node, path) = (named.node, display(&relative(&named.path())));
        let place = (named.dir, named.name.clone());
        if named.is_dir && self.comparison.lower.fingerprint_of(node).is_some() {
            // The host has moved the directory, with whatever else is in it by now.
            self.plan.conflicts.push(path.clone());
            self.plan.blocked.push(path);
            return;
        }
        let replaced = self.replaced.get(&place).copied();
        let is_seen = |node| self.comparison.is_as_seen(node, None);
        // The object was created by the branch, unless the host removed one that the branch
        // changed.
        let is_free = new.seen().get(node.0).is_none() || is_seen(node);
        if let Some(on_host) = replaced.filter(|it| self.comparison.has_same_content(*it, node))
            && is_free
        {
            self.replaced.remove(&place);
            match self.comparison.attributes_to_set(on_host, node) {
                none if none == Differs::default() => {
                    self.plan.already_there.push((Some(place), node));
                }
                only => self.attributes(step, path, on_host, only),
            }
            return;
        }
        let fits = is_free && replaced.is_none_or(is_seen);
        self.conflict_unless(fits, &path);
        let Ok(kind) = new.inode(node).map(|inode| inode.kind()) else {
            return;
        };
        let action = if kind == ObjectKind::File {
            Action::Write(path)
        } else {
            Action::Create(path, kind)
        };
        self.item(step, action, Some(named));
    }

    fn modify(&mut self, node: NodeId, differs: Differs) {
        let Some(path) = path_of(self.comparison.new, node).map(|path| display(&path)) else {
            return;
        };
        let differs = self.comparison.changed_by_branch(node, differs);
        if differs == Differs::default() {
            return;
        }
        if !self.comparison.is_as_seen(node, Some(differs)) {
            if differs.content && self.comparison.has_same_content(node, node) {
                let only = Differs {
                    content: false,
                    mtime: false,
                    ..differs
                };
                if only == Differs::default() {
                    self.plan.already_there.push((None, node));
                } else {
                    self.attributes(&Step::Modified(node, only), path, node, only);
                }
                return;
            }
            self.plan.conflicts.push(path.clone());
        }
        let action = if differs.content {
            Action::Write(path)
        } else {
            Action::SetAttributes(path)
        };
        self.item(&Step::Modified(node, differs), action, None);
    }
}

impl Comparison<'_> {
    /// Looks at the host's object, as an inode that a branch would copy up now.
    fn on_host(&self, node: NodeId) -> Result<Inode> {
        Ok(self.lower.inode(node)?.into())
    }

    /// Returns whether the host still has the object as the branch saw it. Of a directory only the
    /// attributes in question count, because its entries are judged by their own names.
    fn is_as_seen(&self, node: NodeId, differs: Option<Differs>) -> bool {
        let Some(seen) = self.new.seen().get(node.0) else {
            return false;
        };
        let Ok(now) = self.on_host(node) else {
            return false;
        };
        if !now.is_dir() {
            return seen.is_still(&now);
        }
        self.has_attributes_as_seen(node, differs.unwrap_or_default())
    }

    /// Returns whether the host has left these attributes as the branch saw them. This is so for an
    /// object that the host has created since, because the branch saw none of its attributes.
    fn has_attributes_as_seen(&self, node: NodeId, differs: Differs) -> bool {
        let Some(seen) = self.new.seen().get(node.0) else {
            return true;
        };
        let Ok(now) = self.on_host(node) else {
            return false;
        };
        let has_same_xattrs = || {
            let xattrs = self.lower.xattrs(node);
            xattrs.is_ok_and(|xattrs| xattrs == seen.xattrs)
        };
        (!differs.mode || now.mode == seen.mode)
            && (!differs.owner || (now.uid, now.gid) == (seen.uid, seen.gid))
            && (!differs.xattrs || has_same_xattrs())
    }

    /// Returns the attributes to set on the host's object that has the name and the content of one
    /// of the branch: those that differ, unless the branch has left them as it saw them on the
    /// host.
    fn attributes_to_set(&self, on_host: NodeId, of_branch: NodeId) -> Differs {
        let (Ok(there), Ok(here)) = (self.on_host(on_host), self.new.inode(of_branch)) else {
            return Differs::default();
        };
        let seen = self.new.seen().get(on_host.0);
        let owner = (here.uid, here.gid);
        let seen_xattrs = seen.and_then(|seen| seen.xattrs.as_ref());
        let has_own_xattrs = here.xattrs.as_ref() != seen_xattrs;
        let has_same_xattrs = || {
            let xattrs = self.lower.xattrs(on_host);
            xattrs.is_ok_and(|xattrs| xattrs == here.xattrs)
        };
        Differs {
            mode: here.mode != there.mode && seen.is_none_or(|seen| seen.mode != here.mode),
            owner: owner != (there.uid, there.gid)
                && seen.is_none_or(|seen| (seen.uid, seen.gid) != owner),
            xattrs: has_own_xattrs && !has_same_xattrs(),
            ..Differs::default()
        }
    }

    /// Returns those differences of an object that the branch made, and not the host. A time that
    /// the branch set does not count if the host has changed the file since.
    fn changed_by_branch(&self, node: NodeId, mut differs: Differs) -> Differs {
        let (Ok(inode), Some(seen)) = (self.new.inode(node), self.new.seen().get(node.0)) else {
            return differs;
        };
        differs.mode &= inode.mode != seen.mode;
        differs.owner &= (inode.uid, inode.gid) != (seen.uid, seen.gid);
        differs.xattrs &= inode.xattrs != seen.xattrs;
        if inode.as_file().is_some_and(|file| file.lower().is_some()) {
            let is_touched = inode.times.mtime != seen.version().mtime;
            differs.content = false;
            differs.mtime = is_touched && self.is_as_seen(node, None);
        }
        differs
    }

    /// Returns whether the host's object has the same content as the branch's, so that none has to
    /// be written.
    fn has_same_content(&self, on_host: NodeId, of_branch: NodeId) -> bool {
        let (Ok(there), Ok(here)) = (self.on_host(on_host), self.new.inode(of_branch)) else {
            return false;
        };
        match (&*here, &there) {
            (here, there) if here.kind() != there.kind() => false,
            (here, there) if here.kind() == ObjectKind::Symlink => {
                here.link_text() == there.link_text()
            }
            (here, there) => self
                .has_same_bytes((of_branch, here), (on_host, there))
                .unwrap_or(false),
        }
    }

    fn has_same_bytes(
        &self,
        (here, mine): (NodeId, &Inode),
        (there, theirs): (NodeId, &Inode),
    ) -> Option<bool> {
        let size = mine.as_file()?.size();
        if theirs.as_file()?.size() != size {
            return Some(false);
        }
        let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut at = 0;
        while at < size {
            let read = self.new.read(here, at, &mut a).ok()?;
            let stamp = theirs.stamp();
            let found = self.lower.read(there, &stamp, at, &mut b[..read]).ok()?;
            if read == 0 || found < read || a[..read] != b[..read] {
                return Some(false);
            }
            at += read as u64;
        }
        Some(true)
    }
}
