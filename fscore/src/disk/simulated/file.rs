//! One file of the simulated disk.

use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::BorrowedFd;

use super::{BLOCK, Change, Fault, SimulatedDisk, State};
use crate::disk::DiskFile;
use crate::disk::directory::NamedFile;
use crate::model::errno::{Errno, Result};
use crate::sync::MutexGuard;

#[derive(Debug)]
pub(super) struct SimulatedFile {
    pub(super) disk: SimulatedDisk,
    pub(super) id: u64,
    pub(super) process: u64,
}

impl SimulatedFile {
    fn running(&self) -> Result<MutexGuard<'_, State>> {
        self.disk.running(Some(self.process))
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let state = self.running()?;
        let bytes = &state.files[&self.id].bytes;
        let rest = bytes
            .get(usize::try_from(at).unwrap()..)
            .unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let mut bytes = parts.concat();
        let mut state = self.running()?;
        let is_faulty = state.is_faulty();
        let room = state.take_room(self.id, at..at + bytes.len() as u64);
        let room = usize::try_from(room).unwrap();
        let is_full = room < bytes.len();
        bytes.truncate(room);
        if is_faulty {
            // At times all was written before the call failed.
            let len = state.random.below(bytes.len() + 1);
            bytes.truncate(len.max(state.random.below(bytes.len() + 1)));
        }
        state.change(self.id, Change::Write(usize::try_from(at).unwrap(), bytes));
        match (is_faulty, is_full) {
            (true, _) => Err(Errno::EIO),
            (false, true) => Err(Errno::ENOSPC),
            (false, false) => Ok(()),
        }
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.running()?;
        let file = state.files.get_mut(&self.id).unwrap();
        let whole = range.start.div_ceil(BLOCK)..range.end / BLOCK;
        file.blocks.retain(|block| !whole.contains(block));
        let end = range.end.min(file.bytes.len() as u64);
        if range.start < end {
            let zeros = vec![0; usize::try_from(end - range.start).unwrap()];
            let at = usize::try_from(range.start).unwrap();
            state.change(self.id, Change::Write(at, zeros));
        }
        Ok(())
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        let mut bytes = vec![0; usize::try_from(from.end - from.start).unwrap()];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::pread(host, &mut bytes[read..], from.start + read as u64)? {
                0 => break,
                some => read += some,
            }
        }
        self.write_at(&[IoSlice::new(&bytes[..read])], at)?;
        Ok(read as u64)
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.running()?;
        if let Some(fault) = state.next_fault() {
            if fault == Fault::Loss {
                state.lose_unsynced(self.id);
            }
            return Err(Errno::EIO);
        }
        let file = state.files.get_mut(&self.id).unwrap();
        for change in std::mem::take(&mut file.changes) {
            change.apply(&mut file.durable);
        }
        Ok(())
    }
}

impl NamedFile for SimulatedFile {
    fn len(&self) -> Result<u64> {
        Ok(self.running()?.files[&self.id].bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.running()?;
        if state.is_faulty() {
            return Err(Errno::EIO);
        }
        let file = state.files.get_mut(&self.id).unwrap();
        file.blocks.retain(|block| *block < len.div_ceil(BLOCK));
        state.change(self.id, Change::Len(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn allocate(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.running()?;
        if state.is_faulty() {
            return Err(Errno::EIO);
        }
        let room = state.take_room(self.id, range.clone());
        let len = usize::try_from(range.start + room).unwrap();
        if len > state.files[&self.id].bytes.len() {
            state.change(self.id, Change::Len(len));
        }
        if room == range.end - range.start {
            Ok(())
        } else {
            Err(Errno::ENOSPC)
        }
    }
}
