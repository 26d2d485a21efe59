//! The walk from a path to a node, as `link_path_walk` of Linux's `fs/namei.c` does it.

use std::borrow::Cow;

use crate::branch::transaction::{Txn, View};
use crate::model::caller::Caller;
use crate::model::config::PATH_MAX;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind, Place};
use crate::model::flags::Access;
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::model::stamp::Stamp;
use crate::ops::perm::Rights;
use crate::store::inode::Inode;
use crate::store::tree::Tree;

/// How many symbolic links one walk follows.
const MAX_LINKS: u32 = 40;

/// A tree as one caller sees it.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) rights: Rights<'a>,
}

/// An object, and the name by which it was reached.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) node: NodeId,
    pub(crate) kind: ObjectKind,
    pub(crate) at: Option<(NodeId, Name)>,
    /// The version of the host's file that was found on the way, if it was looked at.
    pub(crate) found: Option<Stamp>,
}

impl View<'_> {
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk::new(self.tree, self.caller)
    }
}

impl Txn<'_> {
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk::new(self.tree, self.caller)
    }

    /// Returns the name by which a node was reached.
    pub(crate) fn place_of(&self, target: &Target) -> Option<Place> {
        let (dir, name) = target.at.as_ref()?;
        Some(self.place(*dir, name))
    }
}

/// All of a path but its last component.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent<'p> {
    pub(crate) dir: NodeId,
    pub(crate) last: Last<'p>,
    /// Whether slashes follow the name, so that it must be a directory's.
    pub(crate) slash: bool,
}

/// The last component of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Last<'p> {
    Name(&'p [u8]),
    Dot,
    DotDot,
    /// The path is nothing but slashes.
    Root,
}

/// A name in a directory, existing or not: what an operation gets that creates or removes names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryName<'p> {
    pub(crate) dir: NodeId,
    pub(crate) name: &'p [u8],
    pub(crate) slash: bool,
}

impl<'p> EntryName<'p> {
    /// Returns a name that was passed without a path, as FUSE passes it. `odd` is the error for `.`
    /// and `..`.
    pub(crate) fn new(dir: NodeId, name: &'p [u8], odd: Errno) -> Result<Self> {
        match name {
            b"" => Err(Errno::ENOENT),
            b"." | b".." => Err(odd),
            _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno::EINVAL),
            _ => Ok(Self {
                dir,
                name,
                slash: false,
            }),
        }
    }
}

impl<'p> Parent<'p> {
    /// Returns the name, or the error `odd` for `.`, `..` and the root.
    pub(crate) fn entry(self, odd: Errno) -> Result<EntryName<'p>> {
        match self.last {
            Last::Name(name) => Ok(EntryName {
                dir: self.dir,
                name,
                slash: self.slash,
            }),
            Last::Dot | Last::DotDot | Last::Root => Err(odd),
        }
    }
}

impl<'a> Walk<'a> {
    pub(crate) fn new(tree: &'a Tree, caller: &'a Caller) -> Self {
        Self {
            tree,
            rights: Rights::new(tree, caller),
        }
    }

    pub(crate) fn parent<'p>(self, path: &'p [u8]) -> Result<Parent<'p>> {
        self.parent_from(NodeId::ROOT, path, &mut 0)
    }

    /// Finds the object at the path; `follow` decides whether a symbolic link at its end is
    /// followed.
    pub(crate) fn resolve(self, path: &[u8], follow: bool) -> Result<Target> {
        self.resolve_from(NodeId::ROOT, path, follow, &mut 0)
    }

    pub(crate) fn parent_from<'p>(
        self,
        start: NodeId,
        path: &'p [u8],
        links: &mut u32,
    ) -> Result<Parent<'p>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let mut dir = if path[0] == b'/' { NodeId::ROOT } else { start };
        let mut rest = skip_slashes(path);
        if rest.is_empty() {
            return Ok(Parent {
                dir,
                last: Last::Root,
                slash: true,
            });
        }
        loop {
            self.may_search(dir)?;
            let end = rest.iter().position(|byte| *byte == b'/');
            let (component, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = skip_slashes(after);
            let last = match component {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                name => Last::Name(name),
            };
            if rest.is_empty() {
                let slash = !after.is_empty();
                return Ok(Parent { dir, last, slash });
            }
            let step = Parent {
                dir,
                last,
                slash: true,
            };
            dir = self.finish(step, true, links)?.node;
        }
    }

    pub(crate) fn resolve_from(
        self,
        start: NodeId,
        path: &[u8],
        follow: bool,
        links: &mut u32,
    ) -> Result<Target> {
        let parent = self.parent_from(start, path, links)?;
        self.finish(parent, follow, links)
    }

    /// Resolves the last component.
    fn finish(self, parent: Parent<'_>, follow: bool, links: &mut u32) -> Result<Target> {
        let name = match parent.last {
            Last::Name(name) => name,
            Last::Root | Last::Dot => return self.dir_target(parent.dir),
            Last::DotDot => return self.dir_target(self.parent_of(parent.dir)?),
        };
        let found = self.lookup(parent.dir, name)?.ok_or(Errno::ENOENT)?;
        let target = if found.kind == ObjectKind::Symlink && (follow || parent.slash) {
            self.follow(parent.dir, found.node, links)?
        } else {
            Target {
                node: found.node,
                kind: found.kind,
                at: Some((parent.dir, found.name)),
                found: None,
            }
        };
        if parent.slash && !target.kind.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(target)
    }

    /// Finds the object to which a symbolic link in `dir` leads.
    fn follow(self, dir: NodeId, link: NodeId, links: &mut u32) -> Result<Target> {
        let path = self.link_text(link, links)?;
        self.resolve_from(dir, &path, true, links)
    }

    /// Returns the text of a link that is about to be followed.
    pub(crate) fn link_text(self, link: NodeId, links: &mut u32) -> Result<std::sync::Arc<[u8]>> {
        *links += 1;
        if *links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        let inode = self.tree.inode(link)?;
        inode.link_text().cloned().ok_or(Errno::EINVAL)
    }

    /// Returns a directory, by its one name.
    pub(crate) fn dir_target(self, dir: NodeId) -> Result<Target> {
        self.target(dir)
    }

    /// Returns an object that was reached by number, by any name it has.
    pub(crate) fn target(self, node: NodeId) -> Result<Target> {
        Ok(target(node, &self.tree.inode(node)?))
    }

    /// Returns an object that was reached by number, also if it is only held.
    pub(crate) fn held_target(self, node: NodeId) -> Result<Target> {
        Ok(target(node, &self.tree.inode_or_held(node)?))
    }

    /// Returns the directory to which `..` leads.
    pub(crate) fn parent_of(self, dir: NodeId) -> Result<NodeId> {
        let inode = self.tree.inode(dir)?;
        Ok(inode
            .names
            .first()
            .map_or(NodeId::ROOT, |(parent, _)| parent))
    }

    fn may_search(self, dir: NodeId) -> Result<Cow<'a, Inode>> {
        let inode = self.tree.inode(dir)?;
        if !inode.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.rights.check(&inode, Access::EXECUTE)?;
        Ok(inode)
    }

    /// Checks that a name is not too long.
    pub(crate) fn check_length(self, name: &[u8]) -> Result<()> {
        if name.len() > self.tree.shared.config.limits.name_length as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(())
    }

    pub(crate) fn lookup(self, dir: NodeId, name: &[u8]) -> Result<Option<Found>> {
        self.check_length(name)?;
        let inode = self.tree.inode(dir)?;
        self.tree.lookup(dir, &inode, name)
    }

    /// Looks up a name that was passed without a path, and checks the right to search its
    /// directory.
    pub(crate) fn lookup_at(self, entry: EntryName<'_>) -> Result<Option<Found>> {
        let dir = self.searched(entry)?;
        self.tree.lookup(entry.dir, &dir, entry.name)
    }

    /// Looks up the same, and returns the object as well.
    pub(crate) fn inode_at(self, entry: EntryName<'_>) -> Result<Option<(NodeId, Cow<'a, Inode>)>> {
        let dir = self.searched(entry)?;
        self.tree.lookup_inode(entry.dir, &dir, entry.name)
    }

    fn searched(self, entry: EntryName<'_>) -> Result<Cow<'a, Inode>> {
        let dir = self.may_search(entry.dir)?;
        self.check_length(entry.name)?;
        Ok(dir)
    }

    /// Returns whether `above` is `dir` or a directory above it.
    pub(crate) fn is_above(self, above: NodeId, dir: NodeId) -> Result<bool> {
        let mut at = dir;
        while at != above {
            if at == NodeId::ROOT {
                return Ok(false);
            }
            at = self.parent_of(at)?;
        }
        Ok(true)
    }
}

#[expect(clippy::ptr_arg, reason = "whether it is borrowed is the question")]
fn target(node: NodeId, inode: &Cow<'_, Inode>) -> Target {
    Target {
        node,
        kind: inode.kind(),
        at: inode.names.first().map(|(dir, name)| (dir, name.clone())),
        found: host_version(inode, matches!(inode, Cow::Borrowed(_))),
    }
}

/// Returns the version of the host's file or symbolic link that an object is; `None` for an object
/// of the branch's own.
pub(crate) fn host_version(inode: &Inode, is_own: bool) -> Option<Stamp> {
    let has_content = matches!(inode.kind(), ObjectKind::File | ObjectKind::Symlink);
    (has_content && !is_own).then(|| inode.stamp())
}

fn skip_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/');
    start.map_or(&[], |start| &path[start..])
}
