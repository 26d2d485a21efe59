//! Begins segments: the first one of a process, and each that a checkpoint begins.

use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use super::format::{Header, NEXT_SEGMENT, SEGMENT_HEADER, Seal, segment_name};
use super::recovery::{LogError, Place, Recovery};
use super::rounds::Rounds;
use super::tail::Tail;
use super::{Content, Log, Sizes};
use crate::disk::directory::NamedFile;
use crate::model::errno::{Errno, Result};
use crate::sync::Mutex;

/// How many bytes of a damaged segment are copied at a time.
const COPY_STEP: usize = 1 << 18;

impl Place {
    /// Prepares a segment, with room for so many bytes, under a name that is not that of a segment:
    /// a segment that is there hides what follows it in the one before.
    pub(super) fn prepare(&self, first: u64, durable: u64, len: u64) -> Result<Arc<dyn NamedFile>> {
        match self.directory.remove(NEXT_SEGMENT) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let file = self.directory.create_to_append(NEXT_SEGMENT)?;
        let header = Header {
            store: self.store,
            boot: self.boot,
            first,
            durable,
        };
        file.allocate(0..len)?;
        file.write_at(&[IoSlice::new(&header.encode())], 0)?;
        Ok(file)
    }
}

impl Recovery {
    /// Begins a segment after the records that count, and removes what does not count. What lies
    /// behind a damaged place is kept under names that begin with `damaged-`.
    pub(crate) fn into_log(self, content: Arc<dyn Content>, sizes: Sizes) -> Result<Log, LogError> {
        let place = self.place.clone();
        let name = segment_name(self.next);
        let mut durable = self.durable;
        if self.is_cut {
            // Which records count is no longer to be found out from the markers: the new segment
            // may hide those that say it.
            content.sync().map_err(LogError::disk("the content"))?;
            for found in &self.kept {
                let name = segment_name(found.header.first);
                found.file.sync().map_err(LogError::disk(name))?;
            }
            durable = self.next;
        }
        let is_damaged = self.damage.is_some();
        if is_damaged && self.others.contains(&name) {
            self.copy_aside(&name)?;
        }
        let len = SEGMENT_HEADER as u64 + sizes.spare + sizes.step;
        let file = place.prepare(self.next, durable, len);
        let file = file.map_err(LogError::disk(NEXT_SEGMENT))?;
        // What is replaced or removed may hold the marker that says which records count, so it must
        // not be lost before the new segment, which says so itself, is on disk. Nor may it come back
        // after the next power cut, and be taken for a part of the log.
        let is_replacing = self.is_cut || !self.others.is_empty();
        if is_replacing {
            file.sync().map_err(LogError::disk(NEXT_SEGMENT))?;
        }
        let directory = &place.directory;
        let sync_names = || directory.sync_names().map_err(LogError::disk("the store"));
        let renamed = directory.rename(NEXT_SEGMENT, &name);
        renamed.map_err(LogError::disk(name.clone()))?;
        if is_replacing {
            sync_names()?;
        }
        for other in self.others.iter().filter(|other| **other != name) {
            if is_damaged {
                self.set_aside(other)?;
            } else {
                let removed = directory.remove(other);
                removed.map_err(LogError::disk(other.clone()))?;
            }
        }
        if is_replacing {
            sync_names()?;
        }
        if let (Some(end), Some(last), false) = (self.tail, self.kept.last(), is_damaged) {
            // This only gives unused room back, and the log is as good without.
            let _unused: Result<()> = last.file.set_len(end);
        }
        Ok(self.log_with(file, durable, len, content, sizes))
    }

    fn log_with(
        self,
        file: Arc<dyn NamedFile>,
        durable: u64,
        allocated: u64,
        content: Arc<dyn Content>,
        sizes: Sizes,
    ) -> Log {
        let kept = self.kept.iter().map(|it| it.header.first);
        // This only says when a checkpoint is worth while.
        let older_bytes = self.kept.iter().filter_map(|it| it.file.len().ok()).sum();
        let tail = Tail {
            file,
            first: self.next,
            end: SEGMENT_HEADER as u64,
            allocated,
            held: 0,
            full_until: 0,
            next: self.next,
            appended: self.next,
            durable,
            older: self.older.iter().copied().chain(kept).collect(),
            older_bytes,
            unsynced: self.kept.into_iter().map(|it| it.file).collect(),
            are_names_unsynced: true,
        };
        Log {
            seal: Seal::new(self.place.store),
            place: self.place,
            content,
            sizes,
            tail: Mutex::new(tail),
            rounds: Rounds::new(),
            failure: OnceLock::new(),
        }
    }

    /// Renames a segment to a name that is not that of a segment.
    fn set_aside(&self, name: &str) -> Result<(), LogError> {
        let aside = self.name_aside(name)?;
        let renamed = self.place.directory.rename(name, &aside);
        renamed.map_err(LogError::disk(name))
    }

    /// Copies a segment that the new one replaces. Renaming it would leave a moment in which neither
    /// is there to say which records count.
    fn copy_aside(&self, name: &str) -> Result<(), LogError> {
        let aside = self.name_aside(name)?;
        let directory = &self.place.directory;
        let copied = || {
            let (from, to) = (directory.open(name)?, directory.create(&aside)?);
            let mut buffer = vec![0; COPY_STEP];
            let mut at = 0;
            loop {
                let read = from.read_at(&mut buffer, at)?;
                if read == 0 {
                    break;
                }
                to.write_at(&[IoSlice::new(&buffer[..read])], at)?;
                at += read as u64;
            }
            to.sync()?;
            directory.sync_names()
        };
        copied().map_err(LogError::disk(aside.clone()))
    }

    /// Returns a name that no file has.
    fn name_aside(&self, name: &str) -> Result<String, LogError> {
        let names = self.place.directory.list();
        let names = names.map_err(LogError::disk("the store"))?;
        let aside = (1_u64..).map(|number| format!("damaged-{number}-{name}"));
        let mut free = aside.filter(|aside| !names.contains(aside));
        Ok(free.next().unwrap_or_default())
    }
}
