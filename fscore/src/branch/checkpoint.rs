//! A checkpoint: all branches and snapshots of a store in one file, so that a restart reads only the
//! log after it. A version is written as its difference from another one, so that what they share is
//! there once.

use std::io::IoSlice;
use std::sync::Arc;

use crc32fast::Hasher;

use crate::disk::directory::{Directory, NamedFile};
use crate::log::{Kind, MOST_RECORDS, Record, StoreId};
use crate::model::errno::{Errno, Result};

const MAGIC: [u8; 8] = *b"AgFsChkp";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const RECORD_HEADER: usize = 9;
/// The kind of the record that ends a checkpoint; its number is how many were before it.
const END: u8 = 63;
/// What a checkpoint's name begins with; the number of the first record in the log that it does not
/// contain follows.
const PREFIX: &str = "checkpoint-";
/// The name under which a checkpoint is written.
const NEXT: &str = "next-checkpoint";
/// How many bytes are written at a time.
const PIECE: usize = 1 << 20;

fn name_of(next: u64) -> String {
    format!("{PREFIX}{next:016x}")
}

fn next_of(name: &str) -> Option<u64> {
    let next = u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok()?;
    (name_of(next) == name && next <= MOST_RECORDS).then_some(next)
}

/// Returns whether a file with that name is a checkpoint.
pub(super) fn is_checkpoint(name: &str) -> bool {
    next_of(name).is_some()
}

/// Removes what a checkpoint has left that did not end.
pub(super) fn remove_unfinished(directory: &dyn Directory) -> Result<()> {
    match directory.remove(NEXT) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Returns the number of the first record that is not in the last checkpoint, by that checkpoint's name.
pub(super) fn next(directory: &dyn Directory) -> Result<u64> {
    let names = directory.list()?;
    let next = names.iter().filter_map(|name| next_of(name)).max();
    Ok(next.unwrap_or(1))
}

/// Returns how many bytes the last checkpoint has; 0 if there is none.
pub(super) fn len(directory: &dyn Directory) -> Result<u64> {
    let names = directory.list()?;
    match names.iter().filter_map(|name| next_of(name)).max() {
        Some(next) => directory.open(&name_of(next))?.len(),
        None => Ok(0),
    }
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    directory: Arc<dyn Directory>,
    file: Arc<dyn NamedFile>,
    /// The first record in the log that is not in it.
    next: u64,
    at: u64,
    buffer: Vec<u8>,
    records: u64,
}

impl Writer {
    pub(super) fn new(directory: Arc<dyn Directory>, store: StoreId, next: u64) -> Result<Self> {
        remove_unfinished(&*directory)?;
        let mut header = [0; HEADER];
        header[0..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..32].copy_from_slice(&store.0);
        header[32..40].copy_from_slice(&next.to_le_bytes());
        let checksum = checksum_of_header(&header);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
        Ok(Self {
            file: directory.create(NEXT)?,
            directory,
            next,
            at: 0,
            buffer: header.to_vec(),
            records: 0,
        })
    }

    pub(super) fn write(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        self.records += 1;
        self.record(kind.number(), payload)
    }

    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let len = u32::try_from(payload.len()).map_err(|_| Errno::EFBIG)?;
        self.buffer.extend_from_slice(&len.to_le_bytes());
        let checksum = checksum_of(kind, payload);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.buffer.push(kind);
        self.buffer.extend_from_slice(payload);
        if self.buffer.len() < PIECE {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&[IoSlice::new(&self.buffer)], self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end, and waits until the file survives a power cut. Returns its length.
    pub(super) fn end(&mut self) -> Result<u64> {
        let records = self.records.to_le_bytes();
        self.record(END, &records)?;
        self.flush()?;
        self.file.sync()?;
        Ok(self.at)
    }

    /// Puts the checkpoint in place of those before it. All content that it refers to must survive a
    /// power cut by now. `sync_names` waits until the names of files do.
    pub(super) fn install(self, sync_names: impl FnOnce() -> Result<()>) -> Result<()> {
        let directory = &self.directory;
        directory.rename(NEXT, &name_of(self.next))?;
        sync_names()?;
        for name in directory.list()? {
            if next_of(&name).is_some_and(|next| next < self.next) {
                directory.remove(&name)?;
            }
        }
        Ok(())
    }
}

/// What is wrong with a checkpoint.
#[derive(Debug)]
pub(super) enum Unreadable {
    Disk(Errno),
    Newer {
        name: String,
        version: u32,
    },
    Damaged {
        name: String,
        at: u64,
    },
    /// A record says what no store says.
    Record(String),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(errno) => errno.fmt(f),
            Self::Newer { name, version } => write!(
                f,
                "{name} has version {version} of the format, which this program does not know: use \
                 the newer program that wrote it"
            ),
            Self::Damaged { name, at } => write!(f, "{name} is damaged at byte {at}"),
            Self::Record(why) => write!(f, "of the checkpoint, {why}"),
        }
    }
}

impl From<Errno> for Unreadable {
    fn from(errno: Errno) -> Self {
        Self::Disk(errno)
    }
}

/// Reads the last checkpoint, if there is one, record by record. Returns the number of the first
/// record in the log that is not in it.
pub(super) fn read(
    directory: &dyn Directory,
    store: StoreId,
    mut each: impl FnMut(&Record) -> std::result::Result<(), Unreadable>,
) -> std::result::Result<u64, Unreadable> {
    let names = directory.list()?;
    let Some(next) = names.iter().filter_map(|name| next_of(name)).max() else {
        return Ok(1);
    };
    let name = name_of(next);
    let file = directory.open(&name)?;
    let mut reader = Reader {
        file: &*file,
        name: &name,
        at: 0,
    };
    let header = reader.take(HEADER)?;
    let field = |from: usize, len: usize| header.get(from..from + len).unwrap_or(&[]);
    let is_ours =
        field(0, 8) == MAGIC && number_of(field(12, 4)) == checksum_of_header(&header).into();
    let version = u32::try_from(number_of(field(8, 4))).unwrap_or(u32::MAX);
    if field(0, 8) == MAGIC && version > VERSION {
        return Err(Unreadable::Newer { name, version });
    }
    if !is_ours || field(16, 16) != store.0 || number_of(field(32, 8)) != next {
        return Err(reader.damaged(0));
    }
    for number in 0.. {
        let at = reader.at;
        let head = reader.take(RECORD_HEADER)?;
        let (len, rest) = head.split_at(4);
        let (checksum, kind) = rest.split_at(4);
        let len = usize::try_from(number_of(len)).unwrap_or(usize::MAX);
        let payload = reader.take(len)?;
        let [kind] = *kind else {
            return Err(reader.damaged(at));
        };
        if number_of(checksum) != checksum_of(kind, &payload).into() {
            return Err(reader.damaged(at));
        }
        if kind == END {
            let is_whole = number_of(&payload) == number;
            return if is_whole {
                Ok(next)
            } else {
                Err(reader.damaged(at))
            };
        }
        let kind = Kind::of_number(kind).ok_or_else(|| reader.damaged(at))?;
        each(&Record {
            number,
            kind,
            payload,
        })?;
    }
    Err(reader.damaged(0))
}

struct Reader<'f> {
    file: &'f dyn NamedFile,
    name: &'f str,
    at: u64,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> std::result::Result<Vec<u8>, Unreadable> {
        let at = self.at;
        if at.saturating_add(len as u64) > self.file.len()? {
            return Err(self.damaged(at));
        }
        let mut bytes = vec![0; len];
        if self.file.read_at(&mut bytes, at)? < len {
            return Err(self.damaged(at));
        }
        self.at += len as u64;
        Ok(bytes)
    }

    fn damaged(&self, at: u64) -> Unreadable {
        let name = self.name.to_owned();
        Unreadable::Damaged { name, at }
    }
}

fn checksum_of_header(header: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(header.get(..12).unwrap_or(&[]));
    hasher.update(header.get(16..).unwrap_or(&[]));
    hasher.finalize()
}

fn checksum_of(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

/// Returns the number in at most eight bytes, the lowest first.
fn number_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
