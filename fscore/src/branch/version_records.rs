//! Branches, snapshots and bases as records of the log and of a checkpoint.

use std::sync::Arc;

use super::journal::{VersionId, kind};
use crate::log::Kind;
use crate::model::attr::Nanos;
use crate::model::errno::Result;
use crate::model::id::{BranchId, Seq};
use crate::store::format::bytes::Encoder;
use crate::store::tree::Tree;

/// A new branch or snapshot, as the log has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewVersion<'a> {
    pub(crate) id: VersionId,
    pub(crate) name: &'a str,
    /// The branch from which a snapshot was made.
    pub(crate) from: BranchId,
    /// The number of a branch's last change.
    pub(crate) seq: Seq,
    /// When a snapshot was made, if that is known.
    pub(crate) made: Option<Nanos>,
    /// The one that it is written as a difference from.
    pub(crate) base: Option<(VersionId, &'a Tree)>,
    pub(crate) tree: &'a Tree,
}

/// How many bytes of a version go into one record of a checkpoint.
pub(super) const CHECKPOINT_PART: usize = 64 << 20;

impl NewVersion<'_> {
    /// Writes the version as one record, or several if it is long. The version is there once the last
    /// one is.
    pub(super) fn write(
        &self,
        part: usize,
        mut write: impl FnMut(Kind, &Encoder) -> Result<()>,
    ) -> Result<()> {
        let mut changes = Encoder::default();
        match self.base {
            Some((_, old)) => self.tree.write_difference(old, &mut changes),
            None => {
                let nothing = Tree::unfilled(self.tree.shared.clone());
                self.tree.write_difference(&nothing, &mut changes);
            }
        }
        let mut record = Encoder::default();
        let mut parts = changes.in_parts(part).peekable();
        let mut is_first = true;
        while let Some(bytes) = parts.next_if(|it| it.len() < changes.len()) {
            if parts.peek().is_none() {
                return self.write_last(bytes, &mut record, write);
            }
            record.clear();
            self.id.write(&mut record);
            record.byte(is_first.into());
            self.write_base(&mut record);
            record.append(bytes);
            write(kind::PART, &record)?;
            is_first = false;
        }
        self.write_last(changes.bytes(), &mut record, write)
    }

    fn write_base(&self, record: &mut Encoder) {
        match self.base {
            Some((id, _)) => id.write(record),
            None => record.byte(0),
        }
    }

    fn write_last(
        &self,
        changes: &[u8],
        record: &mut Encoder,
        mut write: impl FnMut(Kind, &Encoder) -> Result<()>,
    ) -> Result<()> {
        record.clear();
        if let Some(made) = self.made {
            record.signed(made);
        }
        self.id.write(record);
        record.text(self.name.as_bytes());
        record.number(self.from.0);
        record.number(self.seq.0);
        self.write_base(record);
        record.append(changes);
        let kind = if self.made.is_some() {
            kind::DATED
        } else {
            kind::VERSION
        };
        write(kind, record)
    }
}

/// A branch or snapshot that is written to a checkpoint.
#[derive(Debug)]
pub(crate) struct OldVersion {
    pub(crate) id: VersionId,
    pub(crate) name: Arc<str>,
    pub(crate) from: BranchId,
    pub(crate) seq: Seq,
    pub(crate) made: Option<Nanos>,
    pub(crate) tree: Tree,
}

impl OldVersion {
    /// Returns the one of those before it with which it has most in common, as far as is known: the
    /// last that was made from the same branch and is frozen over the same base, or the base.
    pub(super) fn base_of<'v>(&self, before: &'v [Self]) -> Option<&'v Self> {
        let own = match self.id {
            VersionId::Branch(id) => id,
            VersionId::Snapshot(_) => self.from,
            VersionId::Base(_) => {
                let is_base = |it: &&Self| matches!(it.id, VersionId::Base(_));
                return before.iter().rfind(is_base);
            }
        };
        let base = self.tree.base().map(|base| base.id);
        let is_like = |it: &Self| {
            !matches!(it.id, VersionId::Base(_)) && it.tree.base().map(|base| base.id) == base
        };
        let last_of = |branch| before.iter().rfind(|it| it.from == branch && is_like(it));
        last_of(own)
            .or_else(|| last_of(self.from))
            .or_else(|| match base {
                Some(id) => before.iter().find(|it| it.id == VersionId::Base(id)),
                None => before.iter().rfind(|it| is_like(it)),
            })
    }

    pub(super) fn as_new<'v>(&'v self, base: Option<&'v Self>) -> NewVersion<'v> {
        NewVersion {
            id: self.id,
            name: &self.name,
            from: self.from,
            seq: self.seq,
            made: self.made,
            base: base.map(|base| (base.id, &base.tree)),
            tree: &self.tree,
        }
    }
}
