//! Answers to a caller that caches them, as a kernel does.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::{bytes, look_again};
use crate::branch::Branch;
use crate::branch::transaction::View;
use crate::lower::{Held, Lower};
use crate::model::attr::Attr;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::ops::walk::{EntryName, host_version};
use crate::store::inode::Inode;
use crate::store::tree::Tree;

/// Metadata, and whether it may be cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The metadata.
    pub attr: Attr,
    /// The version of the host's file or symbolic link that is shown; `None` when the branch has
    /// changed it, and of all other objects.
    pub version: Option<Stamp>,
    /// Whether every change of the metadata is announced. Otherwise the host may change it at any
    /// time without an event.
    pub is_told: bool,
}

impl Shown {
    /// Returns what is shown of an object that the branch has made or changed itself.
    #[must_use]
    pub fn own(attr: Attr) -> Self {
        Self {
            attr,
            version: None,
            is_told: true,
        }
    }
}

/// An object of the host, as it was when a branch changed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// What it was.
    pub kind: ObjectKind,
    /// The version that was shown before the change; zeros for a directory or special file.
    pub version: Stamp,
}

impl Branch {
    /// Looks a name up as [`lookup`](Self::lookup) does, for a caller that caches the answer.
    ///
    /// # Errors
    ///
    /// Those of [`lookup`](Self::lookup).
    pub fn show(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<Shown> {
        look_again(|| {
            self.view(caller, |view| {
                let walk = view.walk();
                match name {
                    b"" => Err(Errno::ENOENT),
                    b"." => view.show_node(parent),
                    b".." => view.show_node(walk.parent_of(parent)?),
                    _ => {
                        let added = view.announced();
                        let entry = EntryName::new(parent, name, Errno::EINVAL)?;
                        let (node, inode) = walk.inode_at(entry)?.ok_or(Errno::ENOENT)?;
                        Ok(view.shown(node, (&inode, is_own(&inode)), added))
                    }
                }
            })
        })
    }

    /// Looks a name up as [`show`](Self::show) does, and holds the object of the host that it leads
    /// to: as long as the caller keeps what is returned beside the metadata, the object can be used
    /// also when the host replaces it. There is nothing to hold of the branch's own objects.
    ///
    /// # Errors
    ///
    /// Those of [`lookup`](Self::lookup).
    pub fn show_and_hold(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
    ) -> Result<(Shown, Option<Arc<Held>>)> {
        look_again(|| {
            let shown = self.show(caller, parent, name)?;
            let held = self.view(caller, |view| match view.lower() {
                Some(lower) if !view.tree.is_own(shown.attr.node) => lower.hold(shown.attr.node),
                _ => Ok(None),
            });
            Ok((shown, held?))
        })
    }

    /// Returns the metadata of a node as [`getattr`](Self::getattr) does, for a caller that caches
    /// the answer.
    ///
    /// # Errors
    ///
    /// Those of [`getattr`](Self::getattr).
    pub fn show_node(&self, node: NodeId) -> Result<Shown> {
        self.view(&Caller::root(), |view| view.show_node(node))
    }

    /// Returns whether names that are created or removed in a directory are announced. The caller
    /// asks before it looks at the directory, so that a change meanwhile is announced too.
    #[must_use]
    pub fn tells_names(&self, dir: NodeId) -> bool {
        let state = self.inner.read();
        let Some(lower) = &state.tree.shared.lower else {
            return true;
        };
        let own = state.tree.inodes().get(dir.0);
        let is_opaque = own.is_some_and(|own| own.as_dir().is_some_and(|dir| !dir.merges_lower));
        is_opaque || lower.announces_names(dir)
    }

    /// Returns whether names are announced in all directories, and will be in new ones.
    #[must_use]
    pub fn tells_all(&self) -> bool {
        let lower = self.core.shared.lower.as_ref();
        lower.is_none_or(|lower| lower.announced.is_whole())
    }

    /// Returns what the host had at a path, relative to the lower directory, when the branch
    /// changed or removed it. Conflicts are judged by this. `None` when the branch has changed
    /// nothing that was there.
    #[must_use]
    pub fn base_of(&self, path: impl AsRef<Path>) -> Option<Base> {
        let state = self.inner.read();
        let lower = state.tree.shared.lower.as_ref()?;
        if let Some(base) = state.tree.base() {
            return base_at(&state.tree, &base.tree, bytes(path.as_ref()));
        }
        let mut node = NodeId::ROOT;
        for name in bytes(path.as_ref()).split(|byte| *byte == b'/') {
            if !name.is_empty() {
                node = lower.seen_as(node, name)?;
            }
        }
        Some(Base {
            kind: lower.kind_of(node)?,
            version: state.tree.seen().get(node.0)?.version(),
        })
    }
}

impl View<'_> {
    pub(crate) fn show_node(&self, node: NodeId) -> Result<Shown> {
        let added = self.announced();
        let inode = self.tree.inode_or_held(node)?;
        Ok(self.shown(node, (&inode, is_own(&inode)), added))
    }

    /// Returns the metadata of an object to which a name has just led.
    pub(crate) fn show_present(&self, node: NodeId) -> Result<Shown> {
        let added = self.announced();
        let inode = self.tree.inode(node)?;
        Ok(self.shown(node, (&inode, is_own(&inode)), added))
    }

    fn lower(&self) -> Option<&Lower> {
        self.tree.shared.lower.as_ref()
    }

    /// Returns how often a directory was announced; read before the host is looked at.
    fn announced(&self) -> u64 {
        self.lower().map_or(0, |lower| lower.announced.added())
    }

    fn shown(&self, node: NodeId, (inode, is_own): (&Inode, bool), added: u64) -> Shown {
        let version = host_version(inode, is_own);
        if let Some(version) = version {
            self.served().attributes(node, version);
        }
        let is_told = is_own
            || self.lower().is_none_or(|lower| {
                // A change before its directory was announced was not announced.
                lower.announces(node) && lower.announced.added() == added
            });
        Shown {
            attr: inode.attr(node),
            version,
            is_told,
        }
    }
}

/// Returns what the base of a frozen tree has at a path.
fn base_at(tree: &Tree, base: &Tree, path: &[u8]) -> Option<Base> {
    let mut node = NodeId::ROOT;
    for name in path.split(|byte| *byte == b'/').filter(|it| !it.is_empty()) {
        let inode = base.inode(node).ok()?;
        node = base.lookup(node, &inode, name).ok()??.node;
    }
    Some(Base {
        kind: base.inode(node).ok()?.kind(),
        version: tree.seen().get(node.0)?.version(),
    })
}

/// Returns whether the branch holds an object itself. Otherwise it is what the host was found to
/// have.
#[expect(clippy::ptr_arg, reason = "whether it is borrowed is the question")]
fn is_own(inode: &Cow<'_, Inode>) -> bool {
    matches!(inode, Cow::Borrowed(_))
}
