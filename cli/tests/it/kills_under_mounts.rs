//! Kills the daemon at random moments while programs work in its mount: they only wait, and nothing is
//! lost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use agentfs_testkit::child::PATIENCE;
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::{can_mount, number};
use agentfs_testkit::random::Random;

use super::kept_mounts::{kill, shut_down, start};
use super::random_kills::gives_back;

/// How often the daemon is killed, unless AGENTFS_KILLS says otherwise.
const KILLS: u64 = 20;
/// How many programs work in the mount at the same time.
const WRITERS: u16 = 2;
/// The most operations that return before a kill.
const DONE: usize = 100;
/// Bytes of the largest file when it is made.
const LARGEST: usize = 20_000;
/// A program that works in a directory of the mount, and knows what must be in it.
struct Writer {
    directory: PathBuf,
    random: Random,
    files: BTreeMap<String, Vec<u8>>,
    /// A file that stays open, and of which all content is known. Every other one has no name.
    open: (File, Vec<u8>),
    number: u64,
}

impl Writer {
    fn new(directory: PathBuf, seed: u64) -> Self {
        fs::create_dir(&directory).unwrap();
        Self {
            open: (open_without_name(&directory), Vec::new()),
            directory,
            random: Random::new(seed),
            files: BTreeMap::new(),
            number: 0,
        }
    }

    /// Works until the test is over. No operation may fail.
    fn work(&mut self, is_over: &AtomicBool, done: &Sender<()>) {
        while !is_over.load(Ordering::Relaxed) {
            self.step();
            // The receiver is gone when the test is over.
            let _is_counted = done.send(());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns a name that no file has yet.
    fn free_name(&mut self) -> String {
        self.number += 1;
        format!("f{}", self.number)
    }

    fn step(&mut self) {
        let names: Vec<String> = self.files.keys().cloned().collect();
        let kind = self.random.below(12);
        if names.is_empty() || kind < 3 {
            return self.make();
        }
        let name = self.random.choose(&names).clone();
        let path = self.path(&name);
        match kind {
            3 => {
                fs::remove_file(&path).unwrap();
                self.files.remove(&name);
            }
            4 => {
                let to = self.free_name();
                fs::rename(&path, self.path(&to)).unwrap();
                let content = self.files.remove(&name).unwrap();
                self.files.insert(to, content);
            }
            5 => {
                let over = self.random.choose(&names).clone();
                fs::rename(&path, self.path(&over)).unwrap();
                let content = self.files.remove(&name).unwrap();
                self.files.insert(over, content);
            }
            6 => {
                let to = self.free_name();
                fs::hard_link(&path, self.path(&to)).unwrap();
                fs::remove_file(&path).unwrap();
                let content = self.files.remove(&name).unwrap();
                self.files.insert(to, content);
            }
            7 => {
                let directory = self.free_name();
                fs::create_dir(self.path(&directory)).unwrap();
                fs::remove_dir(self.path(&directory)).unwrap();
            }
            8 => self.append_to_open(),
            9 => self.write_within(&name),
            10 => self.append(&name),
            _ => self.compare(&name),
        }
    }

    /// Makes a file, and sometimes waits until it is on disk.
    fn make(&mut self) {
        let name = self.free_name();
        let len = self.random.below(LARGEST);
        let content = self.random.bytes(len);
        let mut file = File::create_new(self.path(&name)).unwrap();
        file.write_all(&content).unwrap();
        if self.random.chance(10) {
            file.sync_all().unwrap();
        }
        self.files.insert(name, content);
    }

    fn append(&mut self, name: &str) {
        let more = self.random.bytes(100);
        let mut file = File::options().append(true).open(self.path(name)).unwrap();
        file.write_all(&more).unwrap();
        self.files.get_mut(name).unwrap().extend(more);
    }

    /// Writes somewhere in a file, after it was cut there or before its end.
    fn write_within(&mut self, name: &str) {
        let file = File::options().write(true).open(self.path(name)).unwrap();
        let content = self.files.get_mut(name).unwrap();
        let at = self.random.below(content.len());
        if self.random.chance(50) {
            file.set_len(at as u64).unwrap();
            content.truncate(at);
        }
        let more = self.random.bytes(500);
        file.write_all_at(&more, at as u64).unwrap();
        let end = content.len().max(at + more.len());
        content.resize(end, 0);
        content[at..at + more.len()].copy_from_slice(&more);
    }

    /// Goes on with the open file, which has no name, or takes another one.
    fn append_to_open(&mut self) {
        let (file, content) = &mut self.open;
        let more = self.random.bytes(1_000);
        file.write_all(&more).unwrap();
        content.extend(more);
        let mut got = vec![0; content.len()];
        file.read_exact_at(&mut got, 0).unwrap();
        assert!(got == *content, "a file that stayed open");
        if self.random.chance(20) {
            self.open = (open_without_name(&self.directory), Vec::new());
        }
    }

    #[track_caller]
    fn compare(&self, name: &str) {
        let path = self.path(name);
        let same = fs::read(&path).unwrap() == self.files[name];
        assert!(same, "{}", path.display());
    }

    /// Compares everything, in the directory of that name at this mount point.
    #[track_caller]
    fn compare_all(&self) {
        let listed = fs::read_dir(&self.directory).unwrap();
        let mut listed: Vec<String> = listed
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        listed.sort();
        let wanted: Vec<&String> = self.files.keys().collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), wanted);
        for name in wanted {
            self.compare(name);
        }
    }
}

/// Opens a file whose only name is removed.
fn open_without_name(directory: &Path) -> File {
    let path = directory.join("open");
    let mut options = File::options();
    let file = options.read(true).append(true).create_new(true).open(&path);
    fs::remove_file(path).unwrap();
    file.unwrap()
}

/// Ends the daemon of now also when the test fails, because nothing else would.
struct Ended<'a>(&'a DaemonProcess);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(self.0.run(&["shutdown"]));
        }
    }
}

/// Kills the daemon again and again, each time when so many operations have returned since the last one.
fn kill_while_they_work(
    daemon: &DaemonProcess,
    store: &Path,
    done: &Receiver<()>,
    random: &mut Random,
) {
    for round in 0..number("AGENTFS_KILLS").unwrap_or(KILLS) {
        // An operation of each program may have returned before the last kill, and be counted now.
        let wanted = usize::from(WRITERS) + 1 + random.below(DONE);
        for count in 0..wanted {
            let one = done.recv_timeout(PATIENCE);
            assert!(one.is_ok(), "kill {round}: {count} operations and no more");
        }
        // The keepers start so many daemons within a minute and no more.
        fs::write(store.join("mounts/starts"), "").unwrap();
        kill(&daemon.socket());
        while done.try_recv().is_ok() {}
    }
}

#[test]
fn programs_in_a_mount_go_on_through_kills_at_random_moments() {
    if !can_mount() {
        return;
    }
    let (beside, point) = (private_directory(), tempfile::tempdir().unwrap());
    let (store, point) = (beside.path().join("store"), point.path());
    let seed = number("AGENTFS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut random = Random::new(seed);
    let mut daemon = start(&store, point);
    let mut writers: Vec<Writer> = (0..u64::from(WRITERS))
        .map(|writer| Writer::new(point.join(format!("w{writer}")), random.next_u64()))
        .collect();
    let (is_over, (sender, done)) = (AtomicBool::new(false), channel());
    std::thread::scope(|scope| {
        let ended = Ended(&daemon);
        let working: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                let (sender, is_over) = (sender.clone(), &is_over);
                scope.spawn(move || writer.work(is_over, &sender))
            })
            .collect();
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_while_they_work(&daemon, &store, &done, &mut random);
        }));
        is_over.store(true, Ordering::Relaxed);
        let worked: Vec<_> = working.into_iter().map(|it| it.join()).collect();
        assert!(
            killed.is_ok() && worked.iter().all(Result::is_ok),
            "AGENTFS_SEED={seed}, see above"
        );
        drop(ended);
    });
    assert!(!daemon.wait().success(), "the first one was killed");
    writers.iter().for_each(Writer::compare_all);
    for writer in &mut writers {
        writer.append_to_open();
        writer.open = (File::open("/dev/null").unwrap(), Vec::new());
    }
    shut_down(&daemon);
    let checked = super::stored::check(&store);
    assert!(checked.status.success(), "AGENTFS_SEED={seed}: {checked:?}");
    let daemon = start(&store, point);
    writers.iter().for_each(Writer::compare_all);
    gives_back(&daemon);
}
