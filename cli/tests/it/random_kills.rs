//! Kills the daemon at random moments while programs change files: nothing that was acknowledged is
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use agentfs_client::Client;
use agentfs_proto::message::{FsClose, FsOpen, FsRead, open_flags};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::number;
use agentfs_testkit::files::{mkdir, rename, unlink, write};
use agentfs_testkit::random::Random;

/// How often the daemon is killed, unless AGENTFS_KILLS says otherwise.
const KILLS: u64 = 20;
/// How many programs change files at the same time.
const WORKERS: u64 = 2;
/// The most operations that are acknowledged before a kill.
const ACKNOWLEDGED: usize = 150;
/// Bytes of the largest file.
const LARGEST: usize = 20_000;

/// What a program knows of its directory.
#[derive(Debug, Default)]
struct Known {
    directory: String,
    files: BTreeMap<String, Vec<u8>>,
    /// The names that an operation without an answer was about.
    unsure: BTreeSet<String>,
}

/// Changes files until the daemon is gone.
fn work(mut client: Client, directory: String, seed: u64, acknowledged: &Sender<()>) -> Known {
    let mut random = Random::new(seed);
    let mut known = Known::default();
    let made = mkdir(&mut client, &directory);
    let path = |name: &str| format!("{directory}/{name}");
    let mut number = 0;
    while made.is_ok() {
        number += 1;
        let all: Vec<String> = known.files.keys().cloned().collect();
        let done = match random.below(6) {
            0 if !all.is_empty() => {
                let name = random.choose(&all).clone();
                let done = unlink(&mut client, &path(&name));
                known.files.remove(&name);
                known.unsure = BTreeSet::from([name]);
                done
            }
            1 if !all.is_empty() => {
                let (name, to) = (random.choose(&all).clone(), format!("moved-{number}"));
                let done = rename(&mut client, &path(&name), &path(&to));
                let content = known.files.remove(&name).unwrap();
                known.files.insert(to.clone(), content);
                known.unsure = BTreeSet::from([name, to]);
                done
            }
            _ => {
                let name = format!("made-{number}");
                let len = random.below(LARGEST);
                let content = random.bytes(len);
                let done = write(&mut client, &path(&name), &content);
                known.files.insert(name.clone(), content);
                known.unsure = BTreeSet::from([name]);
                done
            }
        };
        if done.is_err() {
            break;
        }
        known.unsure.clear();
        // The test ends when it has enough.
        let _is_counted = acknowledged.send(());
    }
    known.directory = directory;
    known
}

fn read(client: &mut Client, path: &str) -> Vec<u8> {
    let open = FsOpen {
        path: path.into(),
        flags: open_flags::READ,
        mode: 0,
    };
    let handle = client.fs("", open, soon()).unwrap().handle;
    let len = u32::try_from(LARGEST).unwrap();
    let read = FsRead {
        handle,
        offset: 0,
        len,
    };
    let data = client.fs("", read, soon()).unwrap().data;
    client.fs("", FsClose { handle }, soon()).unwrap();
    data.0
}

/// Compares a directory with what its program knows.
#[track_caller]
fn compare(daemon: &DaemonProcess, known: &Known, what: &str) {
    let listed = daemon.succeeds(&["fs", "ls", &known.directory]);
    let is_sure = |name: &&String| !known.unsure.contains(*name);
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let there: Vec<&String> = listed.iter().filter(is_sure).collect();
    let wanted: Vec<&String> = known.files.keys().filter(is_sure).collect();
    assert_eq!(there, wanted, "{what}: {}", known.directory);
    let mut client = daemon.client();
    for name in wanted {
        let path = format!("{}/{name}", known.directory);
        assert!(
            read(&mut client, &path) == known.files[name],
            "{what}: {path}"
        );
    }
}

fn start(store: &Path) -> DaemonProcess {
    let arguments = ["--store", store.to_str().unwrap()];
    DaemonProcess::start_in(private_directory(), &arguments)
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_kills_at_random_moments() {
    let beside = private_directory();
    let store = beside.path().join("store");
    let seed = number("AGENTFS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut random = Random::new(seed);
    let mut all: Vec<Known> = Vec::new();
    let mut daemon = start(&store);
    for round in 0..number("AGENTFS_KILLS").unwrap_or(KILLS) {
        let what = format!("AGENTFS_SEED={seed}, kill {round}");
        let (acknowledged, count) = channel();
        let workers: Vec<JoinHandle<Known>> = (0..WORKERS)
            .map(|worker| {
                let (client, sender) = (daemon.client(), acknowledged.clone());
                let (directory, seed) = (format!("/{round}-{worker}"), random.next_u64());
                std::thread::spawn(move || work(client, directory, seed, &sender))
            })
            .collect();
        drop(acknowledged);
        let until_kill = random.below(ACKNOWLEDGED) + 1;
        let counted = count.iter().take(until_kill).count();
        assert_eq!(
            counted, until_kill,
            "{what}: the programs went on until the kill"
        );
        drop(daemon.kill());
        let known = workers.into_iter().map(|it| it.join().unwrap());
        let known: Vec<Known> = known.collect();
        let checked = super::stored::check(&store);
        assert!(checked.status.success(), "{what}: {checked:?}");
        daemon = start(&store);
        // Those of a program that was killed before it had a directory are left out.
        let begun = known.into_iter().filter(|it| !it.files.is_empty());
        let begun: Vec<Known> = begun.collect();
        for known in &begun {
            compare(&daemon, known, &what);
        }
        all.extend(begun);
        if !all.is_empty() {
            compare(&daemon, random.choose(&all), &what);
        }
    }
    gives_back(&daemon);
}

/// Deletes everything, after which the store has no content any more.
#[track_caller]
pub(crate) fn gives_back(daemon: &DaemonProcess) {
    let mut client = daemon.client();
    let content = |verb| {
        let said = daemon.succeeds(&["--json", "store", verb]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["defects"], serde_json::json!([]));
        (
            said["content"].as_u64().unwrap(),
            said["size"].as_u64().unwrap(),
        )
    };
    let (before, size) = content("show");
    assert!(before > 0, "the programs have written");
    // A directory may have a file that its program has got no answer about, and no other.
    for directory in daemon.succeeds(&["fs", "ls", "/"]).lines() {
        let listed = daemon.succeeds(&["fs", "ls", &format!("/{directory}")]);
        for name in listed.lines() {
            unlink(&mut client, &format!("/{directory}/{name}")).unwrap();
        }
    }
    let (after, smaller) = content("compact");
    assert_eq!(after, 0);
    assert!(smaller < size, "{smaller} of {size} bytes are left on disk");
}
