//! Steps that add an object or a name to the host.

use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno as HostErrno;

use super::attributes;
use super::execute::{Executor, Stop, done};
use super::plan::relative;
use super::staging::Staged;
use super::swap::At;
use crate::diff::steps::Named;
use crate::lower::{Fingerprint, beneath, split};
use crate::model::errno::{Errno, Result};
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;

impl Executor<'_> {
    /// Adds a new object, or a further name of one that the host has.
    pub(super) fn add(&mut self, named: &Named, replaces: Option<NodeId>) -> Result<(), Stop> {
        let (node, path) = (named.node, relative(&named.path()));
        if named.is_dir {
            return self.add_dir(named, &path);
        }
        let on_host = self.made.contains(&node) || self.old.inode(node).is_ok();
        let existing = self.lower.path_of(node).filter(|_| on_host);
        let is_link = existing.is_some();
        let staged = match existing {
            Some(existing) => {
                let staged = self.link(&existing, &path)?;
                let arrived = Fingerprint::at(&staged.dir, &staged.temporary);
                let expected = self.expected.get(&node);
                if expected.is_some_and(|it| {
                    !arrived.is_some_and(|is| is.is_same_content(&it.fingerprint))
                }) {
                    return Err(Stop::Surprise);
                }
                staged
            }
            None => self.stage(&path, node, replaces)?,
        };
        if let Some(replaced) = replaces {
            let kind = self.lower.kind_of(replaced).unwrap_or(ObjectKind::File);
            let was = Some((replaced, kind));
            self.lower
                .own_writes
                .record_removal(self.branch, &path, was);
        }
        let mut state = self.hold.state();
        let to = At {
            dir: &staged.dir,
            name: &named.name,
        };
        done(match replaces {
            Some(replaced) => {
                let expected = self.expected(replaced)?;
                self.swap.exchange((staged.ready(), None), (to, &expected))
            }
            None => self.swap.place(staged.ready(), to),
        })?;
        staged.is_placed.set(true);
        if let Some(replaced) = replaces {
            self.lower.forget_name(named.dir, &named.name, false);
            state.tree.record_own_move(replaced);
        }
        self.lower.adopt(node, named.dir, &named.name)?;
        if is_link {
            self.has_moved(&mut state, node);
        } else {
            self.record_placed(&mut state, node, &staged);
        }
        state.tree.release_name(named.dir, &named.name, node);
        drop(state);
        self.expect_as_left(node);
        Ok(())
    }

    fn add_dir(&self, named: &Named, path: &[u8]) -> Result<(), Stop> {
        let (dir, name) = split(path);
        let dir = self.dir(dir)?;
        let mut state = self.hold.state();
        match rustix::fs::mkdirat(&dir, name, rustix::fs::Mode::RWXU) {
            Err(HostErrno::EXIST) => return Err(Stop::Surprise),
            other => other?,
        }
        let inode = self.new.inode(named.node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let xattrs = self.new.xattrs(named.node, &inode)?;
        let prepared = beneath::open(&dir, name, flags)
            .map_err(Errno::from)
            .and_then(|fd| attributes::set_all(&dir, &fd, &inode, None, xattrs.as_ref(), None));
        if let Err(errno) = prepared {
            // This fails if another program has put something into the directory by now. Then the
            // directory stays, as theirs.
            let _ = rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR);
            return Err(errno.into());
        }
        self.lower.adopt(named.node, named.dir, &named.name)?;
        state.tree.release_dir(named.node);
        state.tree.release_name(named.dir, &named.name, named.node);
        Ok(())
    }

    /// Stages a further name of the file at `existing`, beside `path`.
    fn link(&self, existing: &[u8], path: &[u8]) -> Result<Staged> {
        let ((from_dir, from), (to_dir, _)) = (split(existing), split(path));
        self.link_at(&self.dir(from_dir)?, from, Rc::new(self.dir(to_dir)?))
    }

    pub(super) fn link_at(
        &self,
        from_dir: &OwnedFd,
        from: &[u8],
        dir: Rc<OwnedFd>,
    ) -> Result<Staged> {
        let staged = Staged::new(dir);
        let at = staged.at();
        rustix::fs::linkat(from_dir, from, at.dir, at.name, AtFlags::empty())?;
        Ok(staged)
    }
}
