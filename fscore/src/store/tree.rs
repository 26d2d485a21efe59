//! All objects of one branch or snapshot. A tree is cloned in constant time, and a snapshot is such
//! a clone.

mod base;
pub(crate) mod bring_up;
mod bytes;
mod check;
mod copy_up;
mod record;
mod touched;

use std::borrow::Cow;
use std::sync::Arc;

pub(crate) use self::base::{Base, TakenDir, TakenObject};
pub(crate) use self::copy_up::Based;
use self::touched::Touched;
use crate::lower::Lower;
use crate::model::attr::{Times, Xattrs};
use crate::model::config::FsConfig;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::{NodeId, NodeNumbers};
use crate::model::names::{Found, Names};
use crate::model::stamp::Stamp;
use crate::store::content::File;
use crate::store::dir::{Dir, Entry, Link, key_of};
use crate::store::extents::Extents;
use crate::store::inode::{Body, Inode, Seen};
use crate::store::trie::Trie;

/// What all branches of a filesystem have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: FsConfig,
    pub(crate) lower: Option<Lower>,
    /// Where the bytes of files lie.
    pub(crate) extents: Arc<Extents>,
    /// Whether changes are written to a log.
    pub(crate) is_logged: bool,
    numbers: Arc<NodeNumbers>,
}

impl Shared {
    pub(crate) fn new(
        config: FsConfig,
        lower: Option<Lower>,
        numbers: Arc<NodeNumbers>,
        extents: Arc<Extents>,
        is_logged: bool,
    ) -> Self {
        Self {
            config,
            lower,
            extents,
            is_logged,
            numbers,
        }
    }

    /// Hands out no number from now on that this node has.
    pub(crate) fn skip_number(&self, node: NodeId) {
        self.numbers.skip(node);
    }

    /// See [`NodeNumbers::skip_all`].
    pub(crate) fn skip_numbers(&self, count: u64) {
        self.numbers.skip_all(count);
    }

    /// See [`NodeNumbers::count`].
    pub(crate) fn numbers(&self) -> u64 {
        self.numbers.count()
    }

    /// Returns a number that no node ever had, and no object of the host can have.
    pub(crate) fn new_node(&self) -> NodeId {
        self.numbers.next()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) shared: Arc<Shared>,
    /// Every object that the branch has made or changed.
    inodes: Trie<Arc<Inode>>,
    /// Objects without a name that a handle holds, and whether link may give them one (`O_TMPFILE`).
    orphans: Trie<bool>,
    /// Pages of content in use.
    pages: u64,
    /// How each lower object was that the branch has copied up, also if the branch has removed it
    /// since.
    seen: Trie<Seen>,
    touched: Touched,
    /// What a frozen tree, which shows nothing of the lower directory, is based on.
    base: Option<Arc<Base>>,
    /// How many pages of content the branch may have at most; `None` without a quota.
    quota: Option<u64>,
}

impl Tree {
    /// Creates a tree with the root directory alone.
    pub(crate) fn new(shared: Arc<Shared>, now: i64) -> Result<Self> {
        let root = match &shared.lower {
            Some(lower) => Inode {
                xattrs: lower.xattrs(NodeId::ROOT)?,
                ..lower.inode(NodeId::ROOT)?.into()
            },
            None => Inode {
                mode: shared.config.permissions.root_mode,
                uid: shared.config.permissions.root_uid,
                gid: shared.config.permissions.root_gid,
                nlink: 2,
                times: Times::at(now),
                names: Names::None,
                xattrs: None,
                body: Body::Dir(Box::<Dir>::default()),
            },
        };
        let mut seen = Trie::default();
        if shared.lower.is_some() {
            seen.insert(NodeId::ROOT.0, Seen::of(&root));
        }
        let mut inodes = Trie::default();
        inodes.insert(NodeId::ROOT.0, Arc::new(root));
        Ok(Self {
            shared,
            inodes,
            orphans: Trie::default(),
            pages: 0,
            seen,
            touched: Touched::default(),
            base: None,
            quota: None,
        })
    }

    pub(crate) fn inodes(&self) -> &Trie<Arc<Inode>> {
        &self.inodes
    }

    pub(crate) fn seen(&self) -> &Trie<Seen> {
        &self.seen
    }

    /// Records how the lower layer has an object.
    pub(crate) fn see(&mut self, node: NodeId, inode: &Inode) {
        self.see_as(node, Seen::of(inode));
    }

    pub(crate) fn see_as(&mut self, node: NodeId, seen: Seen) {
        self.seen.insert(node.0, seen);
        self.touch_seen(node);
    }

    pub(crate) fn forget_seen(&mut self, node: NodeId) {
        self.touch_seen(node);
        self.seen.remove(node.0);
    }

    /// Records that this process has moved or linked the host's object, so that its new time of
    /// change does not count as a change by the host.
    pub(crate) fn record_own_move(&mut self, node: NodeId) {
        self.touch_seen(node);
        if let Some(seen) = self.seen.get_mut(node.0) {
            seen.ctime = None;
        }
    }

    /// Records the same of an object that had the version `found`. The change of the branch may be
    /// based on another version; by its new name it is still the same object.
    pub(crate) fn record_own_move_of(&mut self, node: NodeId, found: Stamp) {
        self.touch_seen(node);
        if let Some(seen) = self.seen.get_mut(node.0) {
            seen.has_moved(found);
        }
    }

    pub(crate) fn orphans(&self) -> &Trie<bool> {
        &self.orphans
    }

    /// Returns the tree without the objects that only handles hold.
    pub(crate) fn without_orphans(&self) -> Self {
        let mut tree = self.clone();
        for (node, _) in self.orphans.iter() {
            tree.forget(NodeId(node));
        }
        tree
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the object. It is `ESTALE` when there is none of that number, or no longer.
    pub(crate) fn inode(&self, node: NodeId) -> Result<Cow<'_, Inode>> {
        if let Some(inode) = self.inodes.get(node.0) {
            return Ok(Cow::Borrowed(inode));
        }
        let lower = self.shared.lower.as_ref().ok_or(Errno::ESTALE)?;
        Ok(Cow::Owned(lower.inode(node)?.into()))
    }

    /// Returns the object as [`inode`](Self::inode) does, or one that the host no longer has where it
    /// was, if something [holds](Lower::hold) it.
    pub(crate) fn inode_or_held(&self, node: NodeId) -> Result<Cow<'_, Inode>> {
        match (self.inode(node), &self.shared.lower) {
            (Err(Errno::ESTALE), Some(lower)) => Ok(Cow::Owned(lower.held_inode(node)?.into())),
            (found, _) => found,
        }
    }

    /// Returns the extended attributes of an object that [`inode`](Self::inode) has returned.
    pub(crate) fn xattrs(&self, node: NodeId, inode: &Inode) -> Result<Option<Arc<Xattrs>>> {
        match &self.shared.lower {
            Some(lower) if !self.is_own(node) => lower.xattrs(node),
            _ => Ok(inode.xattrs.clone()),
        }
    }

    /// Returns whether there is such an object, as far as is known without asking the host. An
    /// object that was copied up and is no longer here was removed.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        let is_lower = || self.shared.lower.as_ref().is_some_and(|it| it.has(node));
        self.is_own(node) || (self.seen.get(node.0).is_none() && is_lower())
    }

    /// Returns whether the branch holds the object itself. Otherwise the object is as the lower
    /// layer has it.
    pub(crate) fn is_own(&self, node: NodeId) -> bool {
        self.inodes.get(node.0).is_some()
    }

    /// Returns the object, to be changed. It must have been [copied up](Self::copy_up).
    pub(crate) fn inode_mut(&mut self, node: NodeId) -> Result<&mut Inode> {
        if self.shared.is_logged {
            self.touched.nodes.push(node);
        }
        self.inodes
            .get_mut(node.0)
            .map(Arc::make_mut)
            .ok_or(Errno::ESTALE)
    }

    /// Checks that one more object fits.
    pub(crate) fn room_for_node(&self) -> Result<()> {
        if self.inodes.len() as u64 >= self.shared.config.limits.nodes {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Checks that so many more pages fit.
    ///
    /// # Errors
    ///
    /// `EDQUOT` beyond the quota of the branch, `ENOSPC` beyond the limit of all branches.
    pub(crate) fn room_for_pages(&self, pages: u64) -> Result<()> {
        let most = self.shared.config.limits.bytes / crate::store::content::PAGE;
        let left = |most: u64| most.saturating_sub(self.pages);
        if pages > 0 && self.quota.is_some_and(|quota| pages > left(quota)) {
            return Err(Errno::EDQUOT);
        }
        if pages > left(most) {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Returns how many pages of content the branch may have at most, if it has a quota.
    pub(crate) fn quota(&self) -> Option<u64> {
        self.quota
    }

    pub(crate) fn set_quota(&mut self, quota: Option<u64>) {
        self.quota = quota;
        if self.shared.is_logged {
            self.touched.quota = true;
        }
    }

    /// Looks a name up, in the branch and below it.
    pub(crate) fn lookup(&self, dir: NodeId, inode: &Inode, name: &[u8]) -> Result<Option<Found>> {
        let entries = inode.as_dir().ok_or(Errno::ENOTDIR)?;
        if let Some((_, entry)) = entries.find(name, self.shared.config.case_sensitivity) {
            return Ok(match entry.link {
                Link::To(node, kind) => Some(Found {
                    node,
                    kind,
                    name: entry.name.clone(),
                }),
                Link::Whiteout => None,
            });
        }
        match &self.shared.lower {
            Some(lower) if entries.merges_lower => {
                let found = lower.lookup(dir, name)?;
                found.map_or(Ok(None), |found| self.checked_again(dir, found))
            }
            _ => Ok(None),
        }
    }

    /// Returns what the host has by a name that the branch does not have. If the branch has copied
    /// up an object with this node, the host's object is looked at again, because it may be another
    /// one by now.
    fn checked_again(&self, dir: NodeId, found: Found) -> Result<Option<Found>> {
        if found.kind.is_dir() || !self.is_own(found.node) {
            return Ok(Some(found));
        }
        let inode = self.inode(dir)?;
        let apart = self.lookup_inode(dir, &inode, &found.name)?;
        Ok(apart.map(|(node, _)| Found { node, ..found }))
    }

    /// Looks a name up as [`lookup`](Self::lookup) does, and returns its object as well.
    pub(crate) fn lookup_inode(
        &self,
        dir: NodeId,
        inode: &Inode,
        name: &[u8],
    ) -> Result<Option<(NodeId, Cow<'_, Inode>)>> {
        let entries = inode.as_dir().ok_or(Errno::ENOTDIR)?;
        let case = self.shared.config.case_sensitivity;
        if let Some(lower) = &self.shared.lower
            && entries.merges_lower
            && entries.find(name, case).is_none()
        {
            let Some((found, below)) = lower.lookup_inode(dir, name)? else {
                return Ok(None);
            };
            let below = Inode::from(below);
            let own = self.inodes.get(found.node.0);
            return Ok(Some(match own {
                Some(own) if own.is_dir() || self.is_as_it_was(found.node, &below) => {
                    (found.node, Cow::Borrowed(&**own))
                }
                Some(_) => {
                    let at = (dir, &found.name);
                    let node = lower.renumber(at, found.node);
                    (node, Cow::Owned(lower.inode(node)?.into()))
                }
                None => (found.node, Cow::Owned(below)),
            }));
        }
        let Some(found) = self.lookup(dir, inode, name)? else {
            return Ok(None);
        };
        let inode = self.inode(found.node)?;
        Ok(Some((found.node, inode)))
    }

    /// Returns whether the host still has an object as it was when the branch copied it up.
    fn is_as_it_was(&self, node: NodeId, below: &Inode) -> bool {
        let seen = self.seen.get(node.0);
        seen.is_some_and(|seen| seen.version().has_bytes_of(&below.stamp()))
    }

    /// Returns whether the lower directory below `dir` has that name.
    fn lower_has(&self, dir: NodeId, entries: &Dir, name: &[u8]) -> Result<bool> {
        match &self.shared.lower {
            Some(lower) if entries.merges_lower => Ok(lower.lookup(dir, name)?.is_some()),
            _ => Ok(false),
        }
    }

    /// Adds an object.
    pub(crate) fn add(&mut self, node: NodeId, inode: Inode) {
        self.pages += inode.as_file().map_or(0, File::counted);
        self.inodes.insert(node.0, Arc::new(inode));
        self.touch_new(node);
    }

    /// Forgets an object that has no name and no handle.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.clear_orphan(node);
        self.touch_new(node);
        if let Some(inode) = self.inodes.remove(node.0) {
            self.pages -= inode.as_file().map_or(0, File::counted);
        }
    }

    /// Records that only handles hold this object, and whether link may give it a name.
    pub(crate) fn set_orphan(&mut self, node: NodeId, linkable: bool) {
        self.orphans.insert(node.0, linkable);
        if self.shared.is_logged {
            self.touched.orphans.push(node);
        }
    }

    /// Records that the object has a name, or has one again.
    pub(crate) fn clear_orphan(&mut self, node: NodeId) {
        if self.orphans.remove(node.0).is_some() && self.shared.is_logged {
            self.touched.orphans.push(node);
        }
    }

    /// Makes `name` in `dir` lead to `node`, in place of what it leads to. The directory must have
    /// been copied up.
    pub(crate) fn set_entry(
        &mut self,
        dir: NodeId,
        name: &Name,
        node: NodeId,
        kind: ObjectKind,
    ) -> Result<()> {
        let case = self.shared.config.case_sensitivity;
        let entries = self.entries_mut(dir, name)?;
        entries.set(
            Entry {
                name: name.clone(),
                link: Link::To(node, kind),
            },
            case,
        );
        Ok(())
    }

    /// Returns the entries of a directory, of which one by this name is to be changed.
    pub(crate) fn entries_mut(&mut self, dir: NodeId, name: &[u8]) -> Result<&mut Dir> {
        if self.shared.is_logged {
            let key = key_of(name, self.shared.config.case_sensitivity);
            self.touched.names.push((dir, key));
        }
        self.inode_mut(dir)?.as_dir_mut().ok_or(Errno::ENOTDIR)
    }

    fn touch_new(&mut self, node: NodeId) {
        if self.shared.is_logged {
            self.touched.new.push(node);
        }
    }

    fn touch_seen(&mut self, node: NodeId) {
        if self.shared.is_logged {
            self.touched.seen.push(node);
        }
    }

    /// Returns whether taking `name` out of `dir` leaves a whiteout. An operation asks before it
    /// changes anything, because the host may fail to answer.
    pub(crate) fn needs_whiteout(&self, dir: NodeId, name: &[u8]) -> Result<bool> {
        let inode = self.inode(dir)?;
        let entries = inode.as_dir().ok_or(Errno::ENOTDIR)?;
        self.lower_has(dir, entries, name)
    }

    /// Takes `name` out of `dir`. The directory must have been copied up.
    pub(crate) fn remove_entry(&mut self, dir: NodeId, name: &Name, whiteout: bool) -> Result<()> {
        let case = self.shared.config.case_sensitivity;
        let entries = self.entries_mut(dir, name)?;
        if whiteout {
            entries.set(
                Entry {
                    name: name.clone(),
                    link: Link::Whiteout,
                },
                case,
            );
        } else {
            entries.remove(name, case);
        }
        Ok(())
    }

    /// Lists a directory in cookie order: the branch's entries, and what shows from below.
    pub(crate) fn list(&self, dir: NodeId, inode: &Inode) -> Result<Vec<(u64, Found)>> {
        let entries = inode.as_dir().ok_or(Errno::ENOTDIR)?;
        let mut all: Vec<(u64, Found)> = entries
            .entries()
            .iter()
            .filter_map(|(key, entry)| match entry.link {
                Link::To(node, kind) => Some((
                    key,
                    Found {
                        node,
                        kind,
                        name: entry.name.clone(),
                    },
                )),
                Link::Whiteout => None,
            })
            .collect();
        if let Some(lower) = self.shared.lower.as_ref().filter(|_| entries.merges_lower) {
            let case = self.shared.config.case_sensitivity;
            for found in lower.list(dir)? {
                if entries.find(&found.name, case).is_none()
                    && let Some(found) = self.checked_again(dir, found)?
                {
                    all.push((key_of(&found.name, case), found));
                }
            }
            all.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
            for at in 1..all.len() {
                // If two names have the same hash, the later one takes the next free key.
                all[at].0 = all[at].0.max(all[at - 1].0 + 1);
            }
        }
        Ok(all)
    }

    pub(crate) fn is_empty_dir(&self, dir: NodeId, inode: &Inode) -> Result<bool> {
        let entries = inode.as_dir().ok_or(Errno::ENOTDIR)?;
        if entries.visible() > 0 {
            return Ok(false);
        }
        Ok(!entries.merges_lower || self.list(dir, inode)?.is_empty())
    }
}
