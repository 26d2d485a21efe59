//! The content of a file as bytes: which extents it lies in.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Weak};

use super::bytes::{Decoder, Encoder, Malformed};
use crate::model::id::BaseId;
use crate::store::content::{File, MAX_SIZE, Mark, PAGE, Part};
use crate::store::extents::{Extent, Extents};
use crate::store::tree::Base;

/// The extents that were named so far, so that files which share one share it again.
#[derive(Debug)]
pub(crate) struct KnownExtents {
    extents: Arc<Extents>,
    known: HashMap<(u64, u64), Weak<Extent>>,
    /// The bases that there are.
    pub(crate) bases: BTreeMap<BaseId, Arc<Base>>,
}

impl KnownExtents {
    pub(crate) fn new(extents: Arc<Extents>) -> Self {
        Self {
            extents,
            known: HashMap::new(),
            bases: BTreeMap::new(),
        }
    }

    /// Returns a base that was named before; `None` for number 0.
    pub(crate) fn base(&self, id: BaseId) -> Result<Option<Arc<Base>>, Malformed> {
        match self.bases.get(&id) {
            Some(base) => Ok(Some(base.clone())),
            None if id.0 == 0 => Ok(None),
            None => Err(Malformed::Unknown("base", id.0)),
        }
    }

    fn get(&mut self, at: u64, len: u64) -> Result<Arc<Extent>, Malformed> {
        let end = at.checked_add(len).filter(|end| *end <= MAX_SIZE);
        end.ok_or(Malformed::Extent(at))?;
        let known = self.known.entry((at, len)).or_default();
        Ok(known.upgrade().unwrap_or_else(|| {
            let extent = Arc::new(self.extents.adopt(at, len));
            *known = Arc::downgrade(&extent);
            extent
        }))
    }

    /// Returns the ranges of all extents that something refers to.
    pub(crate) fn into_live(self) -> Vec<Range<u64>> {
        let live = self.known.into_iter();
        live.filter(|(_, extent)| extent.strong_count() > 0)
            .map(|((at, len), _)| at..at + len)
            .collect()
    }
}

impl Encoder {
    /// Writes what a file has in a range of pages, in which no piece of an extent lies only in
    /// part.
    pub(crate) fn content(&mut self, file: &File, range: Range<u64>) {
        self.number(range.start);
        self.number(range.end);
        let (marks, pieces) = file.parts(range.clone());
        self.number(marks.len() as u64);
        for (pages, mark) in marks {
            self.number(pages.start);
            self.number(pages.end);
            self.byte(match mark {
                Mark::Allocated => 0,
                Mark::Zeros => 1,
            });
        }
        self.number(pieces.len() as u64);
        for Part {
            first,
            extent,
            skip,
            len,
        } in pieces
        {
            self.number(first);
            self.number(extent.at());
            self.number(extent.len());
            self.number(skip);
            self.number(len);
        }
    }
}

impl Decoder<'_> {
    /// Reads what a file has in a range of pages, and puts it there.
    pub(crate) fn content(
        &mut self,
        file: &mut File,
        known: &mut KnownExtents,
    ) -> Result<(), Malformed> {
        let range = self.number()?..self.number()?;
        if range.start > range.end {
            return Err(Malformed::Number);
        }
        let most = MAX_SIZE.div_ceil(PAGE);
        let mut marks = Vec::new();
        for _ in 0..self.count()? {
            let pages = self.at_most(most)?..self.at_most(most)?;
            let mark = match self.byte()? {
                0 => Mark::Allocated,
                1 => Mark::Zeros,
                other => return Err(Malformed::Kind("mark", other.into())),
            };
            marks.push((pages, mark));
        }
        let mut pieces = Vec::new();
        for _ in 0..self.count()? {
            let first = self.at_most(most)?;
            let (at, size) = (self.number()?, self.number()?);
            let (skip, len) = (self.number()?, self.number()?);
            if len == 0 || skip.checked_add(len).is_none_or(|end| end > size) {
                return Err(Malformed::Extent(at));
            }
            pieces.push(Part {
                first,
                extent: known.get(at, size)?,
                skip,
                len,
            });
        }
        if file.recover_parts(range, marks, pieces) {
            Ok(())
        } else {
            Err(Malformed::Number)
        }
    }
}
