//! A real process on a real disk that is killed at any moment.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use agentfs_testkit::child::{PATIENCE, ended};
use agentfs_testkit::random::Random;

use super::machine::{KIND, STORE, all};
use crate::disk::directory::{Directory, NamedFile};
use crate::disk::host_directory::{HostDirectory, boot_id};
use crate::log::{Boot, Content, Place, Purpose, Record, Recovery, Sizes};
use crate::model::errno::Result;

/// Where the child finds the store.
const DIRECTORY: &str = "AGENTFS_LOG_TEST_DIRECTORY";

const THREADS: u64 = 3;

#[derive(Debug)]
struct Data(Arc<dyn NamedFile>);

impl Content for Data {
    fn covered(&self) {}

    fn count_records(&self, count: &mut dyn FnMut()) {
        count();
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

fn recover(path: &Path) -> (Recovery, Arc<dyn Content>) {
    let directory = Arc::new(HostDirectory::open(path).unwrap());
    let data = directory.open("data").or_else(|_| directory.create("data"));
    let boot = Boot(boot_id());
    let store = STORE;
    let place = Place {
        directory,
        store,
        boot,
    };
    (
        Recovery::open(place, 1).unwrap(),
        Arc::new(Data(data.unwrap())),
    )
}

/// A payload that says what its length and bytes must be.
fn payload(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let len = random.pick(&[0, 20, 200, 200, 200, 5000, 200_000]);
    [&seed.to_le_bytes()[..], &random.bytes(len)].concat()
}

/// Appends until the process is killed. Each record that was appended is acknowledged by its seed.
fn append_for_ever(path: &Path) {
    let sizes = Sizes {
        step: 1 << 16,
        ..Sizes::default()
    };
    let (recovery, data) = recover(path);
    // No other child has had these numbers.
    let begin = recovery.next;
    let log = recovery.into_log(data, sizes).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for round in 0.. {
                    let seed = (begin << 32) + (round << 8) + thread;
                    let room = log.reserve(Purpose::Ordinary).unwrap();
                    log.append(room, KIND, &payload(seed)).unwrap();
                    let acknowledgement = seed.to_le_bytes();
                    std::io::stderr().write_all(&acknowledgement).unwrap();
                    match (round + thread) % 40 {
                        10 => log.sync().unwrap(),
                        20 => drop(log.rotate().unwrap()),
                        _ => {}
                    }
                }
            });
        }
    });
}

/// Lets a child append, kills it after some acknowledgements, and returns all that it gave.
fn killed_child(path: &Path, after: usize) -> Vec<u64> {
    let (_crate, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::what_a_killed_process_has_acknowledged_is_there");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]);
    command.env(DIRECTORY, path);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let (seen, acknowledgements) = channel();
    let reader = std::thread::spawn(move || {
        let mut seed = [0; 8];
        while pipe.read_exact(&mut seed).is_ok() {
            seen.send(u64::from_le_bytes(seed)).unwrap();
        }
    });
    let mut seeds = Vec::new();
    for _ in 0..after {
        seeds.push(acknowledgements.recv_timeout(PATIENCE).unwrap());
    }
    child.kill().unwrap();
    assert!(!ended(&mut child).success());
    reader.join().unwrap();
    seeds.extend(acknowledgements.try_iter());
    seeds
}

#[test]
fn what_a_killed_process_has_acknowledged_is_there() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return append_for_ever(&PathBuf::from(path));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let mut acknowledged = Vec::new();
    let mut found: Vec<u64> = Vec::new();
    for _ in 0..20 {
        let after = random.below(200) + 1;
        acknowledged.extend(killed_child(directory.path(), after));
        let (recovery, _) = recover(directory.path());
        assert_eq!(recovery.damage, None);
        let records = all(&recovery);
        let seed = |record: &Record| u64::from_le_bytes(*record.payload.first_chunk().unwrap());
        let now: Vec<u64> = records.iter().map(seed).collect();
        for (record, seed) in records.iter().zip(&now).skip(found.len()) {
            assert!(record.payload == payload(*seed), "{seed:x}");
        }
        assert!(now.starts_with(&found), "what was there stays there");
        found = now;
        let there: HashSet<u64> = found.iter().copied().collect();
        let missing = acknowledged.iter().find(|seed| !there.contains(seed));
        assert_eq!(missing, None);
    }
    assert!(acknowledged.len() > 20 && found.len() - acknowledged.len() <= 60);
}
