//! Frozen trees: a tree that holds everything it shows, so that nothing of the lower directory shows
//! through.
//!
//! A [`Base`] is the lower directory as it was when it was taken. A live tree is laid over a base
//! once ([`Tree::over_base`]), and is frozen from then on. What it has changed since is what differs
//! from the base; [`Tree::over_lower`] turns just that into a live tree again, which can be applied.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::{Shared, Touched, Tree};
use crate::model::attr::Nanos;
use crate::model::config::{CaseSensitivity, fold};
use crate::model::errno::Result;
use crate::model::event::{Name, ObjectKind};
use crate::model::id::{BaseId, NodeId};
use crate::model::names::Names;
use crate::model::stamp::Stamp;
use crate::store::content::File;
use crate::store::dir::{Dir, Entry, Link};
use crate::store::inode::{Body, Inode, Seen};
use crate::store::trie::{Trie, diff};

/// The lower directory as it was when it was taken.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) id: BaseId,
    /// When the taking began. `None` for a base that an apply has made of what its branch shows.
    pub(crate) taken: Option<Nanos>,
    /// Everything that the base holds.
    pub(crate) tree: Tree,
}

impl Base {
    /// Returns the name under which the log has it: when it was taken.
    pub(crate) fn name(&self) -> Arc<str> {
        let taken = self.taken.map(|taken| taken.to_string());
        taken.unwrap_or_default().into()
    }

    /// Returns a base as the log has it.
    pub(crate) fn recovered(id: BaseId, name: &str, tree: Tree) -> Self {
        let taken = name.parse().ok();
        Self { id, taken, tree }
    }
}

/// An object that was taken.
#[derive(Debug)]
pub(crate) struct TakenObject {
    pub(crate) node: NodeId,
    pub(crate) inode: Arc<Inode>,
}

/// A directory that was taken, and where its names lead.
#[derive(Debug)]
pub(crate) struct TakenDir {
    pub(crate) node: NodeId,
    /// The directory, without its entries.
    pub(crate) inode: Inode,
    pub(crate) entries: Vec<(Name, NodeId, ObjectKind)>,
}

impl Tree {
    /// Returns what a frozen tree is based on; `None` for a live one.
    pub(crate) fn base(&self) -> Option<&Arc<Base>> {
        self.base.as_ref()
    }

    /// Bases a frozen tree on another base.
    pub(crate) fn set_base(&mut self, base: Option<Arc<Base>>) {
        self.base = base;
        if self.shared.is_logged {
            self.touched.base = true;
        }
    }

    /// Returns a tree with nothing in it, not even a root.
    pub(crate) fn unfilled(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            inodes: Trie::default(),
            orphans: Trie::default(),
            pages: 0,
            seen: Trie::default(),
            touched: Touched::default(),
            base: None,
            quota: None,
        }
    }

    /// Returns the tree of a base. Objects that are as in the tree of the `former` base are shared
    /// with it.
    pub(crate) fn of_taken(
        shared: Arc<Shared>,
        former: Option<&Self>,
        objects: Vec<TakenObject>,
        dirs: Vec<TakenDir>,
    ) -> Self {
        let mut tree = former.map_or_else(|| Self::unfilled(shared), Self::clone);
        let twinless = |dir| tree.without_twins(dir);
        let dirs: Vec<TakenDir> = dirs.into_iter().map(twinless).collect();
        let mut present: Trie<()> = Trie::default();
        let mut fresh: Trie<Arc<Inode>> = Trie::default();
        for TakenObject { node, inode } in objects {
            present.insert(node.0, ());
            fresh.insert(node.0, inode);
        }
        for dir in &dirs {
            present.insert(dir.node.0, ());
        }
        let names = dirs.iter().flat_map(|dir| {
            let entries = dir.entries.iter();
            entries.map(|(name, node, kind)| (dir.node, name, *node, *kind))
        });
        let mut of_object: Trie<Names> = Trie::default();
        for (dir, name, node, kind) in names {
            let is_kept = present.get(node.0).is_some();
            match of_object.get_mut(node.0) {
                _ if !is_kept => {}
                // A directory that the host moved meanwhile was found by both names.
                Some(_) if kind.is_dir() => {}
                // So was any other object that has one name.
                Some(_) if fresh.get(node.0).is_some_and(|inode| inode.nlink < 2) => {}
                Some(names) => names.add(dir, name.clone()),
                None => drop(of_object.insert(node.0, Names::One(dir, name.clone()))),
            }
        }
        for dir in dirs {
            let TakenDir {
                node,
                inode,
                mut entries,
            } = dir;
            entries.retain(|(name, child, _)| {
                let names = of_object.get(child.0);
                names.is_some_and(|names| names.contains(node, name))
            });
            let names = of_object.get(node.0).cloned().unwrap_or_default();
            tree.put_taken_dir(node, Inode { names, ..inode }, &entries);
        }
        for (key, inode) in fresh.iter() {
            let names = of_object.get(key).cloned().unwrap_or_default();
            tree.put_taken(NodeId(key), inode, names);
        }
        let gone: Vec<u64> = tree
            .inodes
            .iter()
            .map(|(key, _)| key)
            .filter(|key| {
                let is_named = *key == NodeId::ROOT.0 || of_object.get(*key).is_some();
                present.get(*key).is_none() || !is_named
            })
            .collect();
        for key in gone {
            tree.forget(NodeId(key));
            tree.seen.remove(key);
        }
        tree.clone()
    }

    /// Returns the directory with one of several names that are the same here and not on the host.
    fn without_twins(&self, mut dir: TakenDir) -> TakenDir {
        if self.shared.config.case_sensitivity == CaseSensitivity::InsensitivePreserving {
            dir.entries.sort_by(|(a, ..), (b, ..)| a.cmp(b));
            let mut known = FxHashSet::default();
            dir.entries.retain(|(name, ..)| known.insert(fold(name)));
        }
        dir
    }

    fn put_taken(&mut self, node: NodeId, inode: &Arc<Inode>, names: Names) {
        let old = self.inodes.get(node.0);
        if old.is_some_and(|old| old.is_as_taken(inode) && old.names.is_same(&names)) {
            return;
        }
        self.put(
            node,
            Inode {
                names,
                ..Inode::clone(inode)
            },
        );
    }

    fn put_taken_dir(
        &mut self,
        node: NodeId,
        mut inode: Inode,
        entries: &[(Name, NodeId, ObjectKind)],
    ) {
        let case = self.shared.config.case_sensitivity;
        if let Some(old) = self.inodes.get(node.0)
            && let Some(dir) = old.as_dir()
            && old.is_as_taken(&inode)
            && old.names.is_same(&inode.names)
            && dir.visible() as usize == entries.len()
            && entries.iter().all(|(name, child, _)| {
                let found = dir.find(name, case);
                found.is_some_and(|(_, it)| it.leads_to(*child) && it.name == *name)
            })
        {
            return;
        }
        let mut dir = Dir::default();
        for (name, child, kind) in entries {
            let (name, link) = (name.clone(), Link::To(*child, *kind));
            dir.set(Entry { name, link }, case);
        }
        inode.body = Body::Dir(Box::new(dir));
        self.put(node, inode);
    }

    /// Puts an object of a base in, and how the host has it.
    fn put(&mut self, node: NodeId, inode: Inode) {
        self.seen.insert(node.0, Seen::of(&inode));
        self.put_own(node, inode);
    }

    fn put_own(&mut self, node: NodeId, inode: Inode) {
        self.forget(node);
        self.add(node, inode);
    }

    /// Lays a live tree over a base: what the tree shows as the host has it comes from the base.
    pub(crate) fn over_base(&self, base: &Arc<Base>) -> Result<Self> {
        let mut frozen = base.tree.clone();
        for (key, seen) in self.seen.iter() {
            frozen.seen.insert(key, seen.clone());
        }
        let mut hidden = Vec::new();
        let mut own = Vec::new();
        for (key, inode) in self.inodes.iter() {
            let node = NodeId(key);
            own.push((
                node,
                self.frozen_version(node, inode, &base.tree, &mut hidden),
            ));
        }
        for (dir, name, node) in hidden {
            frozen.hide(self, dir, &name, node);
        }
        for (node, inode) in own {
            frozen.put_own(node, inode);
        }
        for (key, inode) in self.inodes.iter() {
            if let Some(below) = base.tree.inodes.get(key) {
                frozen.join_names(self, &base.tree, NodeId(key), inode, below)?;
            }
        }
        frozen.base = Some(base.clone());
        let left = |quota: u64| quota.saturating_sub(self.pages);
        frozen.quota = self.quota.map(|quota| frozen.pages + left(quota));
        Ok(frozen.clone())
    }

    /// Returns an object of a live tree as it is over a base, and collects the names of the base
    /// that the live tree hides.
    fn frozen_version(
        &self,
        node: NodeId,
        inode: &Inode,
        base: &Self,
        hidden: &mut Vec<(NodeId, Name, NodeId)>,
    ) -> Inode {
        let case = self.shared.config.case_sensitivity;
        let below = base.inodes.get(node.0);
        let mut inode = inode.clone();
        match &mut inode.body {
            Body::Dir(dir) if dir.merges_lower => {
                let mut all = below
                    .and_then(|below| below.as_dir())
                    .cloned()
                    .unwrap_or_default();
                for (_, entry) in dir.entries().iter() {
                    if let Some((_, old)) = all.find(&entry.name, case)
                        && let Link::To(child, _) = old.link
                        && !entry.leads_to(child)
                    {
                        hidden.push((node, old.name.clone(), child));
                    }
                    match entry.link {
                        Link::To(..) => all.set(entry.clone(), case),
                        Link::Whiteout => all.remove(&entry.name, case),
                    }
                }
                **dir = all;
            }
            Body::File(file) => {
                let taken = below.and_then(|below| below.as_file());
                let version = base.seen.get(node.0).map(Seen::version);
                // What was taken may be a later version than the one that the branch shows.
                if let (Some(stamp), Some(taken)) = (file.lower(), taken)
                    && version.is_some_and(|version| version.has_bytes_of(stamp))
                    && taken.size() == file.size()
                {
                    *file = taken.clone();
                }
            }
            Body::Dir(_)
            | Body::Symlink(_)
            | Body::CharDevice(_)
            | Body::BlockDevice(_)
            | Body::Fifo
            | Body::Socket => {}
        }
        inode
    }

    /// Takes a name away that the live tree hides, and what is below it, but for what the live tree
    /// holds itself.
    fn hide(&mut self, live: &Self, dir: NodeId, name: &Name, node: NodeId) {
        let mut open = vec![(dir, name.clone(), node)];
        while let Some((dir, name, node)) = open.pop() {
            if live.is_own(node) {
                continue;
            }
            let Some(inode) = self.inodes.get_mut(node.0).map(Arc::make_mut) else {
                continue;
            };
            if !inode.names.contains(dir, &name) {
                continue;
            }
            inode.names.remove(dir, &name);
            inode.nlink = inode.nlink.saturating_sub(1);
            if inode.names.first().is_some() {
                continue;
            }
            let children = inode
                .as_dir()
                .into_iter()
                .flat_map(|it| it.entries().iter());
            open.extend(children.filter_map(|(_, entry)| match entry.link {
                Link::To(child, _) => Some((node, entry.name.clone(), child)),
                Link::Whiteout => None,
            }));
            self.forget(node);
        }
    }

    /// Settles the names that the host has given to an object which the live tree holds itself.
    fn join_names(
        &mut self,
        live: &Self,
        base: &Self,
        node: NodeId,
        own: &Inode,
        below: &Arc<Inode>,
    ) -> Result<()> {
        let case = self.shared.config.case_sensitivity;
        let seen = live.seen.get(node.0).map(Seen::version);
        let taken = base.seen.get(node.0).map(Seen::version);
        let is_same = match (seen, taken) {
            (Some(seen), Some(taken)) => own.is_dir() || seen.has_bytes_of(&taken),
            _ => false,
        };
        let mut apart = None;
        for (dir, name) in below.names.all() {
            let parent = self.inodes.get(dir.0).and_then(|inode| inode.as_dir());
            let leads = parent.and_then(|it| it.find(&name, case));
            if own.names.contains(dir, &name) || !leads.is_some_and(|(_, it)| it.leads_to(node)) {
                continue;
            }
            if own.is_dir() {
                // The host has moved a directory that has its place in the branch.
                self.entries_mut(dir, &name)?.remove(&name, case);
            } else if is_same && own.nlink > 0 {
                let inode = self.inode_mut(node)?;
                inode.names.add(dir, name);
                inode.nlink += 1;
            } else {
                // Another object of the host, which got the inode number.
                let new = *apart.get_or_insert_with(|| self.shared.new_node());
                if !self.is_own(new) {
                    let names = Names::None;
                    let inode = Inode {
                        names,
                        ..Inode::clone(below)
                    };
                    self.put(new, inode);
                }
                self.inode_mut(new)?.names.add(dir, name.clone());
                self.set_entry(dir, &name, new, below.kind())?;
            }
        }
        Ok(())
    }

    /// Returns what a frozen tree has changed, as a live tree: where it has changed nothing, the
    /// lower directory shows. A live tree is returned as it is.
    pub(crate) fn over_lower(&self) -> Result<Self> {
        let Some(base) = &self.base else {
            return Ok(self.clone());
        };
        let mut live = Self::unfilled(self.shared.clone());
        let mut open = vec![NodeId::ROOT];
        diff(&base.tree.inodes, &self.inodes, &mut |key, a, b| {
            if matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b)) {
                return;
            }
            if a.is_some()
                && let Some(seen) = self.seen.get(key)
            {
                live.seen.insert(key, seen.clone());
            }
            if b.is_some() {
                open.push(NodeId(key));
            }
        });
        while let Some(node) = open.pop() {
            let Some(inode) = self.inodes.get(node.0).filter(|_| !live.is_own(node)) else {
                continue;
            };
            let below = base.tree.inodes.get(node.0);
            if let Some(seen) = self.seen.get(node.0) {
                live.seen.insert(node.0, seen.clone());
            }
            live.add(node, self.live_version(node, inode, below));
            open.extend(inode.names.iter().map(|(dir, _)| dir));
        }
        let own: Vec<(NodeId, Arc<Inode>)> = live
            .inodes
            .iter()
            .map(|(key, inode)| (NodeId(key), inode.clone()))
            .collect();
        for (node, inode) in own {
            for (dir, name) in inode.names.all() {
                live.set_entry(dir, &name, node, inode.kind())?;
            }
        }
        Ok(live.clone())
    }

    fn live_version(&self, node: NodeId, inode: &Inode, below: Option<&Arc<Inode>>) -> Inode {
        let case = self.shared.config.case_sensitivity;
        let body = match (below.map(|below| &below.body), &inode.body) {
            (Some(Body::Dir(old)), Body::Dir(new)) => {
                let mut changed = Dir::merging();
                diff(old.entries(), new.entries(), &mut |_, a, b| {
                    if a == b {
                        return;
                    }
                    for (name, is_new) in [a.map(|a| (&a.name, false)), b.map(|b| (&b.name, true))]
                        .into_iter()
                        .flatten()
                    {
                        let link = match new.find(name, case) {
                            Some((_, entry)) => entry.link.clone(),
                            None if is_new => continue,
                            None => Link::Whiteout,
                        };
                        let name = name.clone();
                        changed.set(Entry { name, link }, case);
                    }
                });
                Body::Dir(Box::new(changed))
            }
            (Some(Body::File(old)), Body::File(new)) => match self.seen.get(node.0) {
                Some(seen) if new.same_content(old) && seen.version().size == new.size() => {
                    Body::File(File::over_lower(seen.version()))
                }
                _ => inode.body.clone(),
            },
            _ => inode.body.clone(),
        };
        Inode {
            body,
            ..inode.clone()
        }
    }

    /// Returns which version of the host's file all of the content is, if it is one.
    pub(crate) fn version_of(&self, node: NodeId, file: &File) -> Option<Stamp> {
        if let Some(stamp) = file.lower() {
            return Some(*stamp);
        }
        let base = &self.base.as_ref()?.tree;
        let taken = base.inodes.get(node.0)?.as_file()?;
        let is_same = taken.same_content(file);
        base.seen.get(node.0).map(Seen::version).filter(|_| is_same)
    }
}

impl Inode {
    /// Returns whether another look at the host has found the same, names and entries aside.
    fn is_as_taken(&self, other: &Self) -> bool {
        let times = |it: &Self| (it.times.mtime, it.times.ctime);
        let attributes = |it: &Self| (it.kind(), it.mode, it.uid, it.gid, it.nlink);
        let content = match (&self.body, &other.body) {
            (Body::File(a), Body::File(b)) => a.same_content(b),
            (Body::Symlink(a), Body::Symlink(b)) => a == b,
            (Body::CharDevice(a), Body::CharDevice(b))
            | (Body::BlockDevice(a), Body::BlockDevice(b)) => a == b,
            _ => true,
        };
        content
            && times(self) == times(other)
            && attributes(self) == attributes(other)
            && self.xattrs == other.xattrs
    }
}
