//! Reads a log after a restart: first what of it counts, then its records.

use std::fmt;
use std::sync::Arc;

use super::format::{Boot, Header, Marker, NoHeader, SEGMENT_HEADER, first_of_name, segment_name};
use super::reader::Reader;
use super::{Kind, StoreId};
use crate::disk::directory::{Directory, NamedFile};
use crate::model::errno::Errno;

/// Where a log lies, whose it is, and in which start of the machine it is read and written.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) store: StoreId,
    pub(crate) boot: Boot,
}

/// Why a log cannot be read or begun. None of these errors has changed or removed a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogError {
    Newer { segment: String, version: u32 },
    Foreign { segment: String, store: StoreId },
    Disk { file: String, errno: Errno },
}

impl LogError {
    pub(super) fn disk(file: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let file = file.into();
        move |errno| Self::Disk { file, errno }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { segment, version } => write!(
                f,
                "{segment} has version {version} of the log's format, which this program does not \
                 know: use the newer program that wrote it"
            ),
            Self::Foreign { segment, store } => write!(
                f,
                "{segment} belongs to the store {store}: move it back to the directory of that store"
            ),
            Self::Disk { file, errno } => write!(f, "{file}: {errno}"),
        }
    }
}

impl std::error::Error for LogError {}

/// A place of the log that was on disk once and cannot be read any more, although records after it
/// can. The records before it are kept. Opening the log for writing sets the rest aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) segment: String,
    pub(crate) offset: u64,
    /// The first record that is lost.
    pub(crate) record: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            offset,
            record,
        } = self;
        write!(
            f,
            "{segment} is damaged at byte {offset}: the changes from record {record} on are lost, and \
             all before it are there"
        )
    }
}

/// One segment that has a header of this store.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) file: Arc<dyn NamedFile>,
}

impl Found {
    fn first(&self) -> u64 {
        self.header.first
    }
}

/// What a log holds after a restart.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(super) place: Place,
    from: u64,
    /// The segments with the records that count.
    pub(super) kept: Vec<Found>,
    /// The first records of the segments before them.
    pub(super) older: Vec<u64>,
    /// The names of segments of which nothing counts.
    pub(super) others: Vec<String>,
    /// The end of the readable part of the last kept segment, if it lies there.
    pub(super) tail: Option<u64>,
    pub(super) durable: u64,
    /// Whether records that can be read were left out.
    pub(super) is_cut: bool,
    /// The number after the last record that counts.
    end: u64,
    /// The number of the next record.
    pub(crate) next: u64,
    /// How many records were dropped that could be read, because a power cut may have taken the
    /// content that they refer to. Those were not synced, or the power failed while they were.
    pub(crate) dropped: u64,
    pub(crate) damage: Option<Damage>,
}

impl Recovery {
    /// Reads the log from the record `from` on, which is 1, or what [`rotate`](super::Log::rotate)
    /// returned for the last checkpoint. This writes nothing.
    ///
    /// # Errors
    ///
    /// [`LogError`]; a log that is damaged or torn is none.
    pub(crate) fn open(place: Place, from: u64) -> Result<Self, LogError> {
        let mut segments = Segments::list(&place)?;
        let start = segments.found.iter().rposition(|it| it.first() <= from);
        let rest = segments.found.split_off(start.unwrap_or(0));
        let older = segments.found.iter().map(Found::first).collect();
        let walk = Walk::along(&rest, from, place.store)?;
        let (mut kept, after) = (rest[..walk.reached].to_vec(), &rest[walk.reached..]);

        let is_damage = walk.is_passed_by(&kept, after, &segments.broken, &place)?;
        let damage = is_damage.then(|| Damage {
            segment: segment_name(kept.last().map_or(walk.next, Found::first)),
            offset: walk.at,
            record: walk.wanted,
        });
        let last_boot = kept.last().map(|last| last.header.boot);
        let is_this_boot = last_boot.is_none_or(|boot| boot.is(place.boot));
        let end = if is_damage || is_this_boot {
            walk.next
        } else {
            walk.covered.max(walk.durable).min(walk.next)
        };
        let next = end.max(from);
        let whole = kept.len();
        let unkept = kept.split_off(kept.partition_point(|it| it.first() < next));
        let others = unkept.iter().chain(after).map(Found::first);
        let others = others.chain(segments.broken.iter().map(|(first, _)| *first));
        Ok(Self {
            from,
            older,
            others: others.map(segment_name).collect(),
            tail: (kept.len() == whole && whole > 0).then_some(walk.at),
            // What a checkpoint holds is on disk.
            durable: walk.durable.max(from).min(next),
            is_cut: is_damage || !is_this_boot,
            end,
            next,
            dropped: walk.next - end,
            damage,
            kept,
            place,
        })
    }

    /// Returns the number after the last record that counts.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns how many bytes the segments with the records that count have up to the end of those.
    pub(crate) fn size(&self) -> u64 {
        let whole = self.kept.iter().rev().skip(1);
        let whole = whole.map(|found| found.file.len().unwrap_or(0));
        whole.sum::<u64>() + self.tail.unwrap_or(0)
    }

    /// Returns the records that count, in their order.
    pub(crate) fn records(&self) -> Records<'_> {
        Records {
            recovery: self,
            segment: 0,
            reader: None,
            at: 0,
            number: 0,
        }
    }
}

/// The segments of a directory, ordered by their first records.
struct Segments {
    found: Vec<Found>,
    /// Those whose header cannot be read: the power failed before it was written, or it is damaged.
    broken: Vec<(u64, Arc<dyn NamedFile>)>,
}

impl Segments {
    fn list(place: &Place) -> Result<Self, LogError> {
        let names = place
            .directory
            .list()
            .map_err(LogError::disk("the store"))?;
        let mut firsts: Vec<u64> = names
            .iter()
            .filter_map(|name| first_of_name(name))
            .collect();
        firsts.sort_unstable();
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        for first in firsts {
            let segment = segment_name(first);
            let disk = || LogError::disk(segment.clone());
            let file = place.directory.open(&segment).map_err(disk())?;
            let mut reader = Reader::new(Arc::clone(&file), place.store);
            match reader.header(place.store).map_err(disk())? {
                Ok(header) if header.first == first => found.push(Found { header, file }),
                Ok(_) | Err(NoHeader::Broken) => broken.push((first, file)),
                Err(NoHeader::Newer(version)) => {
                    return Err(LogError::Newer { segment, version });
                }
                Err(NoHeader::Foreign(store)) => {
                    return Err(LogError::Foreign { segment, store });
                }
            }
        }
        Ok(Self { found, broken })
    }
}

/// A walk from record to record, until the first that is not there.
struct Walk {
    /// The first record that is not there.
    next: u64,
    /// The first record that is not there and is no part of a checkpoint.
    wanted: u64,
    /// Where the walk ended in the last segment reached.
    at: u64,
    /// How many segments were reached.
    reached: usize,
    /// What the markers passed say.
    covered: u64,
    durable: u64,
}

impl Walk {
    fn along(segments: &[Found], from: u64, store: StoreId) -> Result<Self, LogError> {
        let mut walk = Self {
            next: from,
            wanted: from,
            at: 0,
            reached: 0,
            covered: 0,
            durable: 0,
        };
        let starts_in_time = |first: &Found| first.first() <= from;
        if let Some(first) = segments.first().filter(|first| starts_in_time(first)) {
            walk.next = first.first();
            for (index, segment) in segments.iter().enumerate() {
                if segment.first() != walk.next {
                    break;
                }
                let limit = segments.get(index + 1).map_or(u64::MAX, Found::first);
                let name = segment_name(segment.first());
                walk.through(segment, limit, store)
                    .map_err(LogError::disk(name))?;
            }
        }
        walk.wanted = walk.next.max(from);
        Ok(walk)
    }

    /// Walks through one segment, up to the record with which the next one begins: what lies behind
    /// was dropped by an earlier recovery.
    fn through(&mut self, segment: &Found, limit: u64, store: StoreId) -> Result<(), Errno> {
        let mut reader = Reader::new(Arc::clone(&segment.file), store);
        self.reached += 1;
        self.durable = self.durable.max(segment.header.durable);
        self.at = SEGMENT_HEADER as u64;
        while self.next < limit {
            let Some((head, payload)) = reader.record(self.at)? else {
                break;
            };
            if head.number != self.next {
                break;
            }
            if let (None, Some(marker)) = (head.kind(), Marker::decode(payload)) {
                self.covered = self.covered.max(marker.covered);
                self.durable = self.durable.max(marker.durable);
            }
            self.next += 1;
            self.at += head.size();
        }
        Ok(())
    }

    /// Returns whether something that is there proves that the record after the walk was on disk. A power cut proves nothing of that kind: of what was not synced it may leave any
    /// part.
    fn is_passed_by(
        &self,
        reached: &[Found],
        after: &[Found],
        broken: &[(u64, Arc<dyn NamedFile>)],
        place: &Place,
    ) -> Result<bool, LogError> {
        let is_beyond = |first: u64| reached.last().is_none_or(|last| last.first() < first);
        let broken = broken.iter().filter(|(first, _)| is_beyond(*first));
        let rest = reached.last().map(|last| (last, self.at));
        let candidates = rest
            .into_iter()
            .chain(after.iter().map(|it| (it, SEGMENT_HEADER as u64)))
            .map(|(it, at)| (it.first(), &it.file, at, it.header.boot))
            .chain(broken.map(|(first, file)| (*first, file, 0, Boot(None))));
        let is_proof =
            |it: &Found| it.header.boot.is(place.boot) || it.header.durable > self.wanted;
        if after.iter().any(is_proof) {
            return Ok(true);
        }
        for (first, file, at, boot) in candidates {
            let reader = Reader::new(Arc::clone(file), place.store);
            let found = self.is_passed_in(reader, at, boot.is(place.boot));
            if found.map_err(LogError::disk(segment_name(first)))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks for a proof in a segment. As long as the machine runs, any record that follows is one.
    fn is_passed_in(
        &self,
        mut reader: Reader,
        mut at: u64,
        is_this_boot: bool,
    ) -> Result<bool, Errno> {
        while let Some(start) = reader.find_record(at, self.wanted)? {
            let Some((head, payload)) = reader.record(start)? else {
                break;
            };
            let marker = head.kind().is_none().then(|| Marker::decode(payload));
            if is_this_boot || marker.flatten().is_some_and(|it| it.durable > self.wanted) {
                return Ok(true);
            }
            at = start + head.size();
        }
        Ok(false)
    }
}

/// A change as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

/// The records of a log, in their order.
#[derive(Debug)]
pub(crate) struct Records<'r> {
    recovery: &'r Recovery,
    /// The index of the next segment to be opened.
    segment: usize,
    reader: Option<Reader>,
    at: u64,
    /// The number of the record at `at`.
    number: u64,
}

impl Records<'_> {
    fn next_record(&mut self) -> Result<Option<Record>, LogError> {
        let mut whole: Vec<u8> = Vec::new();
        let mut is_whole = false;
        loop {
            let Some(mut reader) = self.reader.take().or_else(|| self.open_next()) else {
                return Ok(None);
            };
            let kept = &self.recovery.kept;
            let limit = kept
                .get(self.segment)
                .map_or(self.recovery.end, Found::first);
            if self.number >= limit {
                continue;
            }
            let name = || segment_name(kept[self.segment - 1].first());
            let record = reader.record(self.at).map_err(LogError::disk(name()))?;
            let Some((head, payload)) = record.filter(|(head, _)| head.number == self.number)
            else {
                // It was there when the log was opened.
                return Err(LogError::disk(name())(Errno::EIO));
            };
            // What was begun and is not continued was refused for lack of room.
            if !head.continues() {
                whole.clear();
                is_whole = true;
            }
            whole.extend_from_slice(payload);
            self.at += head.size();
            self.number += 1;
            let kind = head.kind();
            let is_end = is_whole && !head.is_continued();
            self.reader = Some(reader);
            if let (true, Some(kind), true) = (is_end, kind, head.number >= self.recovery.from) {
                return Ok(Some(Record {
                    number: head.number,
                    kind,
                    payload: whole,
                }));
            }
            is_whole = is_whole && head.is_continued();
        }
    }

    fn open_next(&mut self) -> Option<Reader> {
        let segment = self.recovery.kept.get(self.segment)?;
        self.segment += 1;
        self.at = SEGMENT_HEADER as u64;
        self.number = segment.first();
        let store = self.recovery.place.store;
        Some(Reader::new(Arc::clone(&segment.file), store))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_record().transpose();
        if matches!(next, Some(Err(_))) {
            // Nothing after it can be trusted to follow.
            self.segment = usize::MAX;
            self.reader = None;
        }
        next
    }
}
