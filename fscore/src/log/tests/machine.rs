//! A machine with a store on a simulated disk.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::disk::directory::{Directory as _, NamedFile};
use crate::disk::simulated::SimulatedDisk;
use crate::log::{
    Boot, Content, Kind, Log, LogError, Place, Purpose, Record, Recovery, Sizes, StoreId,
};
use crate::model::errno::Result;

pub(super) const STORE: StoreId = StoreId(*b"a store in tests");

pub(super) const KIND: Kind = Kind::new(7);

/// So small that segments grow, and records are split, all the time.
pub(super) const SIZES: Sizes = Sizes {
    room: 300,
    step: 4096,
    spare: 1024,
    ample: 1024,
};

/// The file that records refer to.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) file: Arc<dyn NamedFile>,
    is_dirty: AtomicBool,
    /// How often records were counted, and how often the log said that those are on disk.
    pub(super) rounds: [AtomicUsize; 2],
}

impl DataFile {
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.is_dirty.store(true, Ordering::SeqCst);
        self.file.write_at(&[IoSlice::new(bytes)], at)
    }
}

impl Content for DataFile {
    fn count_records(&self, count: &mut dyn FnMut()) {
        self.rounds[0].fetch_add(1, Ordering::SeqCst);
        count();
    }

    fn covered(&self) {
        self.rounds[1].fetch_add(1, Ordering::SeqCst);
    }

    fn sync(&self) -> Result<()> {
        if self.is_dirty.swap(false, Ordering::SeqCst) {
            self.file.sync()?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) disk: SimulatedDisk,
    boot: u128,
}

impl Machine {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        disk.create("data").unwrap();
        disk.sync_names().unwrap();
        Self { disk, boot: 1 }
    }

    pub(super) fn place(&self) -> Place {
        Place {
            directory: Arc::new(self.disk.clone()),
            store: STORE,
            boot: Boot(Some(self.boot.to_le_bytes())),
        }
    }

    pub(super) fn kill(&self) {
        self.disk.kill();
    }

    pub(super) fn cut_power(&mut self) {
        self.disk.cut_power();
        self.boot += 1;
    }

    pub(super) fn recover(&self, from: u64) -> Result<Recovery, LogError> {
        Recovery::open(self.place(), from)
    }

    pub(super) fn data(&self) -> Result<Arc<DataFile>> {
        Ok(Arc::new(DataFile {
            file: self.disk.open("data")?,
            is_dirty: AtomicBool::new(true),
            rounds: Default::default(),
        }))
    }

    /// Recovers a log that is known to be readable, and goes on with it.
    pub(super) fn log(&self, from: u64) -> Log {
        let recovery = self.recover(from).unwrap();
        assert_eq!(recovery.damage, None);
        recovery.into_log(self.data().unwrap(), SIZES).unwrap()
    }

    /// Returns the payloads that a restart finds.
    pub(super) fn payloads(&self, from: u64) -> Vec<Vec<u8>> {
        let recovery = self.recover(from).unwrap();
        assert_eq!(recovery.damage, None);
        all(&recovery).into_iter().map(|it| it.payload).collect()
    }

    pub(super) fn segments(&self) -> Vec<String> {
        let names = self.disk.list().unwrap();
        let is_segment = |name: &String| name.starts_with("log-");
        names.into_iter().filter(is_segment).collect()
    }
}

pub(super) fn append(log: &Log, payload: &[u8]) -> Result<u64> {
    log.append(log.reserve(Purpose::Ordinary)?, KIND, payload)
}

pub(super) fn all(recovery: &Recovery) -> Vec<Record> {
    let records: Result<Vec<Record>, LogError> = recovery.records().collect();
    records.unwrap()
}
