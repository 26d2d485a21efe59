//! The changes of a tree as bytes, and a tree from such bytes.
//!
//! A record says what the changed parts are from then on, and not what was done: reading it costs
//! what it changed, and asks the host nothing.

use std::ops::Range;
use std::sync::Arc;

use super::Tree;
use crate::model::id::{BaseId, NodeId};
use crate::model::names::NameChange;
use crate::store::content::File;
use crate::store::dir::{Dir, Entry, Link, SLOTS, key_of};
use crate::store::format::KnownExtents;
use crate::store::format::bytes::{Decoder, Encoder, Malformed};
use crate::store::inode::{Body, Inode};
use crate::store::trie::diff;

#[cfg(test)]
mod tests;

/// The parts of a record, by their numbers in the log.
mod part {
    /// The metadata of an object that was there.
    pub(super) const METADATA: u8 = 1;
    /// An object that was not there, without entries and bytes.
    pub(super) const NEW: u8 = 2;
    pub(super) const GONE: u8 = 3;
    /// All entries of a directory whose names have one hash.
    pub(super) const NAMES: u8 = 4;
    pub(super) const CONTENT: u8 = 5;
    /// An object without a name, and whether it may be given one.
    pub(super) const ORPHAN: u8 = 6;
    pub(super) const NO_ORPHAN: u8 = 7;
    /// How the lower layer had an object.
    pub(super) const SEEN: u8 = 8;
    pub(super) const UNSEEN: u8 = 9;
    /// The base of a frozen tree; 0 for a live one.
    pub(super) const BASE: u8 = 10;
    /// The metadata of an object that was there, but of its many names only the changes.
    pub(super) const RELINKED: u8 = 11;
    /// How many pages of content a branch may have, and one more; 0 for as many as others.
    pub(super) const QUOTA: u8 = 12;
}

const EVERYTHING: Range<u64> = 0..u64::MAX;

impl Tree {
    /// Writes what has changed since the last call.
    pub(crate) fn write_changes(&mut self, encoder: &mut Encoder) {
        let mut touched = std::mem::take(&mut self.touched);
        if let Some(before) = touched.before.take() {
            self.write_difference(&before, encoder);
        }
        touched.sort();
        for node in &touched.new {
            self.take_changed(*node);
            self.take_changed_names(*node);
            write_object(
                encoder,
                *node,
                self.inodes.get(node.0).map(|inode| &**inode),
            );
        }
        let is_new = |node: &NodeId| touched.new.binary_search(node).is_ok();
        for node in touched.nodes.iter().filter(|node| !is_new(node)) {
            let changed = self.take_changed(*node);
            let names = self.take_changed_names(*node);
            let inode = self.inodes.get(node.0).map(|inode| &**inode);
            match (inode, names) {
                (Some(inode), Some(names)) => {
                    encoder.part(part::RELINKED);
                    encoder.node(*node);
                    encoder.relinked(inode, &names);
                }
                (inode, _) => write_metadata(encoder, *node, inode),
            }
            if let (Some(pages), Some(file)) = (changed, inode.and_then(Inode::as_file)) {
                write_content(encoder, *node, file, pages);
            }
        }
        for (dir, key) in touched.names.iter().filter(|(dir, _)| !is_new(dir)) {
            let dir_of = self.inodes.get(dir.0).and_then(|inode| inode.as_dir());
            if let Some(entries) = dir_of {
                write_names(encoder, *dir, *key, entries);
            }
        }
        for node in &touched.orphans {
            write_orphan(encoder, *node, self.orphans.get(node.0));
        }
        for node in &touched.seen {
            self.write_seen(encoder, *node);
        }
        if touched.base {
            self.write_base(encoder);
        }
        if touched.quota {
            self.write_quota(encoder);
        }
        touched.clear();
        self.touched = touched;
    }

    /// Puts another tree in place of this one, which is returned. The quota stays.
    pub(crate) fn replace(&mut self, new: Self) -> Self {
        let mut touched = std::mem::take(&mut self.touched);
        let old = std::mem::replace(self, new);
        self.quota = old.quota;
        if self.shared.is_logged {
            // What was changed before, and is in no record yet, is written as it is now.
            touched.new.append(&mut touched.nodes);
            touched
                .new
                .extend(touched.names.drain(..).map(|(dir, _)| dir));
            if touched.before.is_none() {
                touched.before = Some(Box::new(old.clone()));
            }
            self.touched = touched;
        }
        old
    }

    /// Returns the pages of a file that were changed, and begins anew.
    fn take_changed(&mut self, node: NodeId) -> Option<Range<u64>> {
        let is_changed = |inode: &Arc<Inode>| inode.as_file().is_some_and(File::is_changed);
        self.inodes.get(node.0).filter(|it| is_changed(it))?;
        let inode = Arc::make_mut(self.inodes.get_mut(node.0)?);
        inode.as_file_mut()?.take_changed()
    }

    /// Returns which names of an object were changed, if that is less than all of them, and begins anew.
    fn take_changed_names(&mut self, node: NodeId) -> Option<Vec<NameChange>> {
        let names = &self.inodes.get(node.0)?.names;
        let are_known = names.are_known();
        if !names.are_unwritten() {
            return are_known.then(Vec::new);
        }
        let inode = Arc::make_mut(self.inodes.get_mut(node.0)?);
        let changed = inode.names.take_changed();
        are_known.then_some(changed)
    }

    /// Writes what makes this tree of an old one. Parts that both share cost nothing.
    pub(crate) fn write_difference(&self, old: &Self, encoder: &mut Encoder) {
        diff(&old.inodes, &self.inodes, &mut |key, a, b| {
            let node = NodeId(key);
            match (a, b) {
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {}
                (Some(a), Some(b)) if a.kind() == b.kind() => {
                    write_metadata(encoder, node, Some(b));
                    write_inner_difference(encoder, node, a, b);
                }
                (_, b) => write_object(encoder, node, b.map(|inode| &**inode)),
            }
        });
        diff(&old.orphans, &self.orphans, &mut |key, a, b| {
            if a != b {
                write_orphan(encoder, NodeId(key), b);
            }
        });
        diff(&old.seen, &self.seen, &mut |key, a, b| {
            if a != b {
                self.write_seen(encoder, NodeId(key));
            }
        });
        if old.base_number() != self.base_number() {
            self.write_base(encoder);
        }
        if old.quota != self.quota {
            self.write_quota(encoder);
        }
    }

    fn write_quota(&self, encoder: &mut Encoder) {
        encoder.part(part::QUOTA);
        encoder.number(self.quota.map_or(0, |quota| quota.saturating_add(1)));
    }

    fn base_number(&self) -> u64 {
        self.base().map_or(0, |base| base.id.0)
    }

    fn write_base(&self, encoder: &mut Encoder) {
        encoder.part(part::BASE);
        encoder.number(self.base_number());
    }

    fn write_seen(&self, encoder: &mut Encoder, node: NodeId) {
        let Some(seen) = self.seen.get(node.0) else {
            encoder.part(part::UNSEEN);
            return encoder.node(node);
        };
        encoder.part(part::SEEN);
        encoder.node(node);
        encoder.seen(seen);
        let lower = self.shared.lower.as_ref();
        let place = lower.and_then(|lower| lower.seen_at(node));
        encoder.byte(place.is_some().into());
        if let Some((path, inode, kind)) = place {
            encoder.text(&path);
            encoder.number(inode);
            encoder.kind(kind);
        }
    }

    /// Makes the changes of a record.
    ///
    /// # Errors
    ///
    /// Returns why the bytes are no record of this tree, which may be changed in part then.
    pub(crate) fn replay(
        &mut self,
        decoder: &mut Decoder<'_>,
        known: &mut KnownExtents,
    ) -> Result<(), Malformed> {
        while !decoder.is_empty() {
            let kind = decoder.byte()?;
            if kind == part::BASE {
                self.base = known.base(BaseId(decoder.number()?))?;
                continue;
            }
            if kind == part::QUOTA {
                self.quota = decoder.number()?.checked_sub(1);
                continue;
            }
            let node = decoder.node()?;
            match kind {
                part::METADATA => {
                    let old = self.inodes.get_mut(node.0).ok_or(missing(node))?;
                    let inode = decoder.inode(Some(Inode::clone(old)))?;
                    *old = Arc::new(inode);
                }
                part::RELINKED => {
                    let old = self.inodes.get_mut(node.0).ok_or(missing(node))?;
                    *old = Arc::new(decoder.relinked(Inode::clone(old))?);
                }
                part::NEW => {
                    self.shared.skip_number(node);
                    let inode = decoder.inode(None)?;
                    self.forget_counted(node);
                    self.inodes.insert(node.0, Arc::new(inode));
                }
                part::GONE => {
                    self.forget_counted(node);
                    self.inodes.remove(node.0);
                }
                part::NAMES => self.replay_names(node, decoder)?,
                part::CONTENT => {
                    let inode = self.inodes.get_mut(node.0).ok_or(missing(node))?;
                    let file = Arc::make_mut(inode).as_file_mut().ok_or(missing(node))?;
                    let before = file.counted();
                    decoder.content(file, known)?;
                    let others = self.pages.saturating_sub(before);
                    let pages = others.checked_add(file.counted());
                    self.pages = pages.ok_or(Malformed::Number)?;
                }
                part::ORPHAN => {
                    let linkable = decoder.byte()? == 1;
                    self.orphans.insert(node.0, linkable);
                }
                part::NO_ORPHAN => {
                    self.orphans.remove(node.0);
                }
                part::SEEN => {
                    self.seen.insert(node.0, decoder.seen()?);
                    self.replay_place(node, decoder)?;
                }
                part::UNSEEN => {
                    self.seen.remove(node.0);
                }
                other => return Err(Malformed::Kind("part of a record", other.into())),
            }
        }
        Ok(())
    }

    fn forget_counted(&mut self, node: NodeId) {
        let old = self.inodes.get(node.0).and_then(|inode| inode.as_file());
        let counted = old.map_or(0, File::counted);
        self.pages = self.pages.saturating_sub(counted);
    }

    /// Reads where the host had an object.
    fn replay_place(&self, node: NodeId, decoder: &mut Decoder<'_>) -> Result<(), Malformed> {
        if decoder.byte()? == 0 {
            return Ok(());
        }
        let (path, inode, kind) = (decoder.text()?, decoder.number()?, decoder.kind()?);
        if let Some(lower) = self.shared.lower.as_ref().filter(|_| node != NodeId::ROOT) {
            lower.recover(node, path, inode, kind);
        }
        Ok(())
    }

    fn replay_names(&mut self, dir: NodeId, decoder: &mut Decoder<'_>) -> Result<(), Malformed> {
        let key = decoder.number()?;
        let mut entries = Vec::new();
        for _ in 0..decoder.at_most(SLOTS)? {
            let link = match decoder.byte()? {
                0 => Link::Whiteout,
                1 => Link::To(decoder.node()?, decoder.kind()?),
                other => return Err(Malformed::Kind("entry", other.into())),
            };
            let name = decoder.name()?;
            if key_of(name, self.shared.config.case_sensitivity) != key {
                return Err(Malformed::Name);
            }
            let name = name.into();
            entries.push(Entry { name, link });
        }
        if !key.is_multiple_of(SLOTS) || key >= 1 << 63 {
            return Err(Malformed::Name);
        }
        let inode = self.inodes.get_mut(dir.0).ok_or(missing(dir))?;
        let own = Arc::make_mut(inode).as_dir_mut().ok_or(missing(dir))?;
        own.replace_group(key, entries);
        Ok(())
    }
}

fn missing(node: NodeId) -> Malformed {
    Malformed::Unknown("object", node.0)
}

fn write_metadata(encoder: &mut Encoder, node: NodeId, inode: Option<&Inode>) {
    encoder.part(match inode {
        Some(_) => part::METADATA,
        None => part::GONE,
    });
    encoder.node(node);
    if let Some(inode) = inode {
        encoder.inode(inode);
    }
}

/// Writes an object with all that is in it.
fn write_object(encoder: &mut Encoder, node: NodeId, inode: Option<&Inode>) {
    let Some(inode) = inode else {
        return write_metadata(encoder, node, None);
    };
    encoder.part(part::NEW);
    encoder.node(node);
    encoder.inode(inode);
    match &inode.body {
        Body::File(file) => {
            let (marks, pieces) = file.parts(EVERYTHING);
            if !marks.is_empty() || !pieces.is_empty() {
                write_content(encoder, node, file, EVERYTHING);
            }
        }
        Body::Dir(dir) => {
            let mut last = None;
            for (key, _) in dir.entries().iter() {
                let group = key & !(SLOTS - 1);
                if last.replace(group) != Some(group) {
                    write_names(encoder, node, group, dir);
                }
            }
        }
        Body::Symlink(_)
        | Body::CharDevice(_)
        | Body::BlockDevice(_)
        | Body::Fifo
        | Body::Socket => {}
    }
}

/// Writes how the entries or the bytes of two versions of an object differ.
fn write_inner_difference(encoder: &mut Encoder, node: NodeId, old: &Inode, new: &Inode) {
    match (&old.body, &new.body) {
        (Body::File(a), Body::File(b)) => {
            if let Some(pages) = a.differing_pages(b) {
                write_content(encoder, node, b, pages);
            }
        }
        (Body::Dir(a), Body::Dir(b)) => {
            let mut last = None;
            diff(a.entries(), b.entries(), &mut |key, x, y| {
                let group = key & !(SLOTS - 1);
                if x != y && last.replace(group) != Some(group) {
                    write_names(encoder, node, group, b);
                }
            });
        }
        _ => {}
    }
}

fn write_content(encoder: &mut Encoder, node: NodeId, file: &File, pages: Range<u64>) {
    encoder.part(part::CONTENT);
    encoder.node(node);
    encoder.content(file, pages);
}

fn write_names(encoder: &mut Encoder, dir: NodeId, group: u64, entries: &Dir) {
    encoder.part(part::NAMES);
    encoder.node(dir);
    encoder.number(group);
    let all = || (group..group + SLOTS).map_while(|key| entries.entries().get(key));
    encoder.number(all().count() as u64);
    for entry in all() {
        match entry.link {
            Link::Whiteout => encoder.byte(0),
            Link::To(node, kind) => {
                encoder.byte(1);
                encoder.node(node);
                encoder.kind(kind);
            }
        }
        encoder.text(&entry.name);
    }
}

fn write_orphan(encoder: &mut Encoder, node: NodeId, linkable: Option<&bool>) {
    encoder.part(match linkable {
        Some(_) => part::ORPHAN,
        None => part::NO_ORPHAN,
    });
    encoder.node(node);
    if let Some(linkable) = linkable {
        encoder.byte((*linkable).into());
    }
}
