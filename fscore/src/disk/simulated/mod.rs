//! A disk in memory, for tests. At a power cut the disk loses any part of what was not synced. It can
//! be full, and its calls fail when a test says so.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use agentfs_testkit::random::Random;

use super::directory::{Directory, NamedFile};
use crate::model::errno::{Errno, Result};
use crate::sync::{Mutex, MutexGuard};

use self::file::SimulatedFile;

/// What is written to the medium as a whole, or not at all.
const SECTOR: u64 = 512;

/// What a file takes room in.
const BLOCK: u64 = 4096;

/// How a call fails that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call fails with `EIO`, and the next ones work.
    Error,
    /// The same, but a sync that fails loses what it was to write, and the next one does not notice.
    Loss,
    /// The process ends in the middle of the call, so that no later call does anything.
    Crash,
}

/// A disk with one directory. A copy is the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    files: BTreeMap<u64, FileState>,
    locked: BTreeSet<u64>,
    capacity: u64,
    calls: u64,
    fault: Option<(u64, Fault)>,
    is_down: bool,
    /// The process whose files are open. Those of an earlier one are dead.
    process: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    Rename(String, String, u64),
    Remove(String, u64),
}

#[derive(Debug, Default)]
struct FileState {
    bytes: Vec<u8>,
    blocks: BTreeSet<u64>,
    durable: Vec<u8>,
    /// What was done since the last sync.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => {
                let end = at + new.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(new);
            }
            Self::Len(len) => bytes.resize(*len, 0),
        }
    }

    /// Returns what a power cut may leave of a change: all, nothing, some sectors of it, or what was
    /// copied to a mapped page before that page was written.
    fn survivors(&self, random: &mut Random) -> Vec<Self> {
        let Self::Write(at, bytes) = self else {
            let Self::Len(len) = self else { return vec![] };
            return if random.chance(50) {
                vec![Self::Len(*len)]
            } else {
                vec![]
            };
        };
        match random.below(6) {
            0 | 1 => vec![],
            2 | 3 => vec![Self::Write(*at, bytes.clone())],
            4 => vec![Self::Write(
                *at,
                bytes[..random.below(bytes.len() + 1)].to_vec(),
            )],
            _ => sectors(*at, bytes)
                .filter(|_| random.chance(50))
                .map(|(at, sector)| Self::Write(at, sector.to_vec()))
                .collect(),
        }
    }
}

/// Cuts what is written at the borders of sectors.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let sector = usize::try_from(SECTOR).unwrap();
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = at + done;
        let len = (sector - start % sector).min(bytes.len() - done);
        let cut = (len > 0).then(|| (start, &bytes[done..done + len]));
        done += len;
        cut
    })
}

fn blocks(range: Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            files: BTreeMap::new(),
            locked: BTreeSet::new(),
            capacity: u64::MAX,
            calls: 0,
            fault: None,
            is_down: false,
            process: 0,
        })))
    }

    /// Makes the disk so large that only `free` bytes are left.
    pub(crate) fn leave_free(&self, free: u64) {
        let mut state = self.0.lock();
        state.capacity = state.used().saturating_add(free);
    }

    /// Lets a call fail that changes or syncs something, counted from now; 0 is the next one.
    pub(crate) fn fail_after(&self, calls: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fault = Some((state.calls + calls, fault));
    }

    /// Ends the process: its files are closed, and the machine runs on.
    pub(crate) fn kill(&self) {
        let mut state = self.0.lock();
        state.process += 1;
        state.is_down = false;
        state.fault = None;
        state.locked.clear();
    }

    /// Takes the power from the machine, and gives it back.
    pub(crate) fn cut_power(&self) {
        self.kill();
        self.0.lock().cut_power();
    }

    /// Changes bytes of a file behind everybody's back.
    pub(crate) fn corrupt(&self, name: &str, at: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.0.lock();
        let id = state.names[name];
        let file = state.files.get_mut(&id).unwrap();
        change(&mut file.bytes[at..]);
        file.durable.clone_from(&file.bytes);
        file.changes.clear();
    }

    fn running(&self, process: Option<u64>) -> Result<MutexGuard<'_, State>> {
        let state = self.0.lock();
        let is_alive = process.is_none_or(|process| process == state.process);
        if is_alive && !state.is_down {
            Ok(state)
        } else {
            Err(Errno::EIO)
        }
    }

    fn file(&self, id: u64) -> Arc<SimulatedFile> {
        let process = self.0.lock().process;
        Arc::new(SimulatedFile {
            disk: self.clone(),
            id,
            process,
        })
    }
}

impl State {
    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let files = named.iter().map(|id| self.files[id].blocks.len() as u64);
        files.sum::<u64>() * BLOCK
    }

    /// Counts a call and returns whether it is to fail.
    fn is_faulty(&mut self) -> bool {
        self.next_fault().is_some()
    }

    /// Counts a call and returns how it is to fail, if it is.
    fn next_fault(&mut self) -> Option<Fault> {
        let fault = self.fault.filter(|(call, _)| *call == self.calls);
        self.calls += 1;
        let fault = fault.map(|(_, fault)| fault);
        self.is_down |= fault == Some(Fault::Crash);
        fault
    }

    fn cut_power(&mut self) {
        // At some power cuts nearly all was written already.
        let kept = self.random.pick(&[0, 50, 90, 100]);
        let mut names = self.durable_names.clone();
        for change in std::mem::take(&mut self.name_changes) {
            if self.random.chance(50.max(kept)) {
                change.apply(&mut names);
            }
        }
        self.files
            .retain(|id, _| names.values().any(|named| named == id));
        for file in self.files.values_mut() {
            for change in std::mem::take(&mut file.changes) {
                if self.random.chance(kept) {
                    change.apply(&mut file.durable);
                    continue;
                }
                for part in change.survivors(&mut self.random) {
                    part.apply(&mut file.durable);
                }
            }
            file.bytes.clone_from(&file.durable);
            file.blocks = blocks(0..file.bytes.len() as u64).collect();
        }
        self.durable_names.clone_from(&names);
        self.names = names;
    }

    /// Writes some of what was not synced, and forgets that the rest was not: a kernel that could
    /// not write a page keeps it in memory, and takes it for written.
    fn lose_unsynced(&mut self, id: u64) {
        let file = self.files.get_mut(&id).unwrap();
        for change in std::mem::take(&mut file.changes) {
            for part in change.survivors(&mut self.random) {
                part.apply(&mut file.durable);
            }
        }
    }

    fn change_names(&mut self, change: NameChange) -> Result<()> {
        let is_faulty = self.is_faulty();
        if !is_faulty || self.random.chance(50) {
            change.apply(&mut self.names);
            self.name_changes.push(change);
        }
        if is_faulty { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Takes room for a range and returns how many of its bytes have room.
    fn take_room(&mut self, id: u64, range: Range<u64>) -> u64 {
        let mut free = self.capacity.saturating_sub(self.used()) / BLOCK;
        let file = self.files.get_mut(&id).unwrap();
        for block in blocks(range.clone()) {
            if file.blocks.contains(&block) {
                continue;
            }
            if free == 0 {
                return (block * BLOCK).saturating_sub(range.start);
            }
            free -= 1;
            file.blocks.insert(block);
        }
        range.end - range.start
    }

    fn change(&mut self, id: u64, change: Change) {
        let file = self.files.get_mut(&id).unwrap();
        change.apply(&mut file.bytes);
        file.changes.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, id) => drop(names.insert(name.clone(), *id)),
            Self::Rename(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
            Self::Remove(name, id) => {
                if names.get(name) == Some(id) {
                    names.remove(name);
                }
            }
        }
    }
}

impl Directory for SimulatedDisk {
    fn open(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let id = self.running(None)?.names.get(name).copied();
        Ok(self.file(id.ok_or(Errno::ENOENT)?))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let id = {
            let mut state = self.running(None)?;
            if state.names.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            let id = state.calls;
            state.files.insert(id, FileState::default());
            state.change_names(NameChange::Create(name.to_owned(), id))?;
            id
        };
        Ok(self.file(id))
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.running(None)?.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut state = self.running(None)?;
        let id = *state.names.get(from).ok_or(Errno::ENOENT)?;
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), id))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.running(None)?;
        let id = *state.names.get(name).ok_or(Errno::ENOENT)?;
        state.change_names(NameChange::Remove(name.to_owned(), id))
    }

    fn sync_names(&self) -> Result<()> {
        let mut state = self.running(None)?;
        let state = &mut *state;
        let fault = state.next_fault();
        if matches!(fault, None | Some(Fault::Loss)) {
            for change in std::mem::take(&mut state.name_changes) {
                if fault.is_none() || state.random.chance(50) {
                    change.apply(&mut state.durable_names);
                }
            }
        }
        fault.map_or(Ok(()), |_| Err(Errno::EIO))
    }

    fn lock(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let file = match self.open(name) {
            Err(Errno::ENOENT) => self.create(name)?,
            opened => opened?,
        };
        let mut state = self.running(None)?;
        let id = state.names[name];
        if state.locked.insert(id) {
            Ok(file)
        } else {
            Err(Errno::EAGAIN)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    fn write(file: &Arc<dyn NamedFile>, bytes: &[u8], at: u64) -> Result<()> {
        file.write_at(&[IoSlice::new(bytes)], at)
    }

    #[test]
    fn power_cut_takes_only_what_was_not_synced() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let disk = SimulatedDisk::new(seed);
            let file = disk.create("a").unwrap();
            write(&file, b"synced", 0).unwrap();
            file.sync().unwrap();
            disk.sync_names().unwrap();
            write(&file, b"later", 6).unwrap();
            disk.create("b").unwrap();
            disk.cut_power();
            assert!(write(&file, b"x", 0).is_err(), "the process is gone");
            let mut bytes = [0; 11];
            let len = disk.open("a").unwrap().read_at(&mut bytes, 0).unwrap();
            assert!(b"syncedlater".starts_with(&bytes[..len]) && len >= 6);
            let (is_some, is_all) = (len > 6, len == 11);
            outcomes.insert((is_some, is_all, disk.open("b").is_ok()));
        }
        assert_eq!(
            outcomes.len(),
            6,
            "nothing, some or all, and the name or not"
        );
    }

    #[test]
    fn full_disk_refuses_and_punched_blocks_can_be_used_again() {
        let disk = SimulatedDisk::new(1);
        let file = disk.create("a").unwrap();
        disk.leave_free(2 * BLOCK);
        file.allocate(0..2 * BLOCK).unwrap();
        assert_eq!(file.allocate(2 * BLOCK..3 * BLOCK), Err(Errno::ENOSPC));
        write(&file, b"there is room", BLOCK).unwrap();
        let other = disk.create("b").unwrap();
        assert_eq!(write(&other, b"x", 0), Err(Errno::ENOSPC));
        file.punch(0..BLOCK).unwrap();
        write(&other, b"x", 0).unwrap();
    }

    #[test]
    fn crash_leaves_a_part_of_one_call_and_stops_the_others() {
        let disk = SimulatedDisk::new(3);
        let file = disk.create("a").unwrap();
        disk.fail_after(1, Fault::Crash);
        write(&file, b"whole", 0).unwrap();
        assert_eq!(write(&file, b"torn", 5), Err(Errno::EIO));
        assert_eq!(file.sync(), Err(Errno::EIO));
        disk.kill();
        let mut bytes = [0; 9];
        let len = disk.open("a").unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(b"wholetorn".starts_with(&bytes[..len]) && len >= 5);
    }
}
