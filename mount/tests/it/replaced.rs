//! Tests a mount whose files the host replaces while programs use them: by writing beside the file
//! and renaming, as editors and git do. No call by a path fails because of that, and a program that
//! has a file open goes on with the file that it opened, as in a bare directory.
//!
//! `AGENTFS_REPLACED_SECONDS` makes the long test longer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use agentfs_core::{FsConfig, FsCore, LowerChange, Overlay};
use parking_lot::Mutex;
use rustix::fs::XattrFlags;
use tempfile::TempDir;

use crate::support::{Fixture, Mounted};

const FILES: usize = 3;
const PAUSE: Duration = Duration::from_millis(10);
const ATTRIBUTE: &str = "user.version";

/// A bare directory, and a mount over it.
struct Place {
    mount: Mounted,
    fixture: Fixture,
    host: TempDir,
}

impl Place {
    fn new() -> Option<Self> {
        let host = tempfile::tempdir().unwrap();
        for number in 0..FILES {
            put(host.path(), number, 0);
            symlink("version-0", host.path().join(link(number))).unwrap();
        }
        let fixture = Fixture::new(FsConfig {
            overlay: Some(Overlay {
                lower: host.path().to_owned(),
            }),
            ..FsConfig::default()
        })?;
        let mount = fixture.mount();
        Some(Self {
            mount,
            fixture,
            host,
        })
    }
}

fn name(number: usize) -> String {
    format!("file-{number}")
}

fn link(number: usize) -> String {
    format!("link-{number}")
}

/// Returns the content of a version of a file: some lengths are of several pages, and no two versions
/// that follow each other have the same.
fn content(number: usize, version: u64) -> Vec<u8> {
    let line = format!("{number:03} {version:011}\n");
    let lines = usize::try_from(version % 7).unwrap() * 200 + 1;
    line.repeat(lines).into_bytes()
}

/// Returns the version that the bytes are of, if they are all of one and of this file.
fn version_of(number: usize, bytes: &[u8]) -> Option<u64> {
    let first = std::str::from_utf8(bytes.get(4..15)?).ok()?;
    let version = first.parse().ok()?;
    (content(number, version) == bytes).then_some(version)
}

/// Writes a file beside its place, and renames it.
fn put(host: &Path, number: usize, version: u64) {
    let beside = host.join("beside");
    fs::write(&beside, content(number, version)).unwrap();
    let value = version.to_string();
    let set = rustix::fs::setxattr(&beside, ATTRIBUTE, value.as_bytes(), XattrFlags::empty());
    // Not every filesystem that tests run on has extended attributes.
    assert!(set.is_ok() || set == Err(rustix::io::Errno::OPNOTSUPP));
    fs::rename(beside, host.join(name(number))).unwrap();
}

/// How the host's changes become known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Announced {
    /// Not at all.
    Never,
    /// Each by an event that comes after it.
    ByEvents,
}

/// Replaces all files and links again and again until it is stopped; returns how often.
fn replace(host: &Path, fs: Option<&FsCore>, pause: Duration, stop: &mpsc::Receiver<()>) -> u64 {
    let mut version = 0;
    while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        version += 1;
        for number in 0..FILES {
            put(host, number, version);
            symlink(format!("version-{version}"), host.join("beside link")).unwrap();
            fs::rename(host.join("beside link"), host.join(link(number))).unwrap();
            for (from, to) in [("beside", name(number)), ("beside link", link(number))] {
                let Some(fs) = fs else { continue };
                fs.lower_changed(&LowerChange::Created {
                    path: from.into(),
                    is_dir: false,
                });
                fs.lower_changed(&LowerChange::Renamed {
                    from: from.into(),
                    to: to.into(),
                    is_dir: false,
                });
            }
        }
    }
    version
}

/// What went wrong, and how often; and how many calls there were.
#[derive(Default)]
struct Counts {
    wrong: Mutex<BTreeMap<String, u64>>,
    calls: AtomicU64,
}

impl Counts {
    fn wrong(&self, what: String) {
        *self.wrong.lock().entry(what).or_default() += 1;
    }

    fn check<T>(&self, call: &str, result: std::io::Result<T>) -> Option<T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        result
            .map_err(|error| self.wrong(format!("{call}: {error}")))
            .ok()
    }

    fn holds(&self, what: &str, holds: bool) {
        if !holds {
            self.wrong(what.to_owned());
        }
    }
}

/// Uses one file as programs do.
fn use_file((path, number): (&Path, usize), counts: &Counts) {
    let Some(mut file) = counts.check("open", File::open(path)) else {
        return;
    };
    let size = counts.check("fstat", file.metadata()).map(|it| it.len());
    let mut bytes = Vec::new();
    let read = counts.check("read", file.read_to_end(&mut bytes));
    if read.is_none() {
        return;
    }
    counts.holds("a mixed content", version_of(number, &bytes).is_some());
    counts.holds(
        "a size of another version",
        size == Some(bytes.len() as u64),
    );
    let mut again = vec![0; bytes.len()];
    if counts
        .check("pread", file.read_exact_at(&mut again, 0))
        .is_some()
    {
        counts.holds("another content when read again", again == bytes);
    }
}

fn use_paths(dir: &Path, number: usize, counts: &Counts) {
    let path = dir.join(name(number));
    use_file((&path, number), counts);
    if let Some(found) = counts.check("stat", fs::metadata(&path)) {
        let is_of_a_version =
            (0..7).any(|version| content(number, version).len() as u64 == found.len());
        counts.holds("a size of no version", is_of_a_version);
    }
    let text = counts.check("readlink", fs::read_link(dir.join(link(number))));
    let is_whole = |text: &PathBuf| text.to_str().is_some_and(|it| it.starts_with("version-"));
    counts.holds(
        "a link text of no version",
        text.as_ref().is_none_or(is_whole),
    );
    let access = rustix::fs::access(&path, rustix::fs::Access::READ_OK);
    counts.check("access", access.map_err(Into::into));
    let mut value = [0; 32];
    match rustix::fs::getxattr(&path, ATTRIBUTE, &mut value[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        got => drop(counts.check("getxattr", got.map_err(Into::into))),
    }
}

fn list(dir: &Path, counts: &Counts) {
    let Some(entries) = counts.check("opendir", fs::read_dir(dir)) else {
        return;
    };
    let names = entries.filter_map(|entry| counts.check("readdir", entry));
    let listed = names.filter(|it| it.file_name().as_encoded_bytes().starts_with(b"file-"));
    counts.holds("a listing without a file", listed.count() == FILES);
}

/// Uses the files from several threads while the host replaces them; returns what went wrong, the
/// number of calls and of versions.
fn run(
    (dir, host, fs): (&Path, &Path, Option<&FsCore>),
    (pause, length): (Duration, Duration),
) -> (BTreeMap<String, u64>, u64, u64) {
    let counts = Counts::default();
    let (stop, stopped) = mpsc::channel();
    let is_over = AtomicBool::new(false);
    let versions = std::thread::scope(|scope| {
        let replacing = scope.spawn(move || replace(host, fs, pause, &stopped));
        let end = Instant::now() + length;
        let users: Vec<_> = (0..FILES)
            .map(|number| {
                let (counts, is_over) = (&counts, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        use_paths(dir, number, counts);
                    }
                })
            })
            .collect();
        while Instant::now() < end {
            list(dir, &counts);
        }
        is_over.store(true, Ordering::Relaxed);
        for user in users {
            user.join().unwrap();
        }
        stop.send(()).unwrap();
        replacing.join().unwrap()
    });
    let calls = counts.calls.into_inner();
    (counts.wrong.into_inner(), calls, versions)
}

fn length() -> Duration {
    let seconds = std::env::var("AGENTFS_REPLACED_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn check(announced: Announced, pause: Duration) {
    let Some(place) = Place::new() else {
        return;
    };
    let host = place.host.path();
    let fs = (announced == Announced::ByEvents).then(|| {
        let announces = place.fixture.fs.announced().unwrap();
        announces.add("".as_ref());
        announces.set_whole(true);
        &place.fixture.fs
    });
    let times = (pause, length());
    let (wrong, calls, versions) = run((host, host, None), times);
    assert_eq!(
        wrong,
        BTreeMap::new(),
        "bare, {calls} calls, {versions} versions"
    );
    let (wrong, calls, versions) = run((place.mount.dir.path(), host, fs), times);
    eprintln!("{announced:?}, {pause:?}: {calls} calls, {versions} versions");
    assert_eq!(wrong, BTreeMap::new(), "{calls} calls, {versions} versions");
    assert!(calls > 0 && versions > 0);
}

#[test]
fn no_call_fails_because_the_host_replaces_a_hundred_times_a_second() {
    check(Announced::Never, PAUSE);
}

#[test]
fn no_call_fails_because_the_host_replaces_as_fast_as_it_can() {
    check(Announced::Never, Duration::ZERO);
}

#[test]
fn no_call_fails_because_the_host_replaces_what_the_kernel_remembers() {
    check(Announced::ByEvents, PAUSE);
}

#[test]
fn no_call_fails_because_the_host_replaces_what_the_kernel_remembers_at_once() {
    check(Announced::ByEvents, Duration::ZERO);
}

/// A file that was replaced is one without a name to the program that has it open.
#[test]
fn a_file_that_is_open_when_it_is_replaced_stays_what_it_was() {
    let Some(place) = Place::new() else {
        return;
    };
    let path = place.mount.path(&name(0));
    for version in 1..20 {
        let open = File::open(&path).unwrap();
        let before = open.metadata().unwrap();
        put(place.host.path(), 0, version);
        let mut bytes = vec![0; content(0, version - 1).len()];
        open.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(version_of(0, &bytes), Some(version - 1));
        let after = open.metadata().unwrap();
        assert_eq!((after.ino(), after.len()), (before.ino(), before.len()));
        assert_eq!(after.nlink(), 0);
        assert_eq!(version_of(0, &fs::read(&path).unwrap()), Some(version));
        assert_ne!(fs::metadata(&path).unwrap().ino(), before.ino());
        // It is opened again by a path that does not lead through its name.
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        let again = fs::read(format!("/proc/self/fd/{number}")).unwrap();
        assert_eq!(version_of(0, &again), Some(version - 1));
    }
}

/// What a program writes takes the file from the host, so each file is opened once.
#[test]
fn no_open_for_writing_fails_because_the_host_replaces() {
    const MANY: usize = 100;
    let Some(place) = Place::new() else {
        return;
    };
    let host = place.host.path();
    for number in 0..MANY {
        put(host, number, 0);
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1.. {
                for number in 0..MANY {
                    put(host, number, version);
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        let results: Vec<_> = (0..MANY)
            .map(|number| {
                let path = place.mount.path(&name(number));
                let mut options = File::options();
                let cuts = number % 2 == 0;
                options.write(true).truncate(cuts).create(number % 4 == 0);
                let opened = options.open(path)?;
                // What keeps bytes of the file cannot be written when they are gone.
                if cuts {
                    opened.write_all_at(b"mine", 0)
                } else {
                    Ok(())
                }
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        for (number, result) in results.into_iter().enumerate() {
            assert!(result.is_ok(), "{number}: {result:?}");
        }
    });
}

/// A file is written beside its place, and listed there, before it gets its name. What the listing said
/// of it is no answer for the program that looks it up in its place.
#[test]
fn what_a_listing_says_of_a_file_that_the_host_is_writing_is_not_remembered() {
    let Some(place) = Place::new() else {
        return;
    };
    let announces = place.fixture.fs.announced().unwrap();
    announces.add("".as_ref());
    announces.set_whole(true);
    let beside = place.host.path().join("beside");
    let shown = place.mount.path("beside");
    // Once the file has been left alone for two seconds, it counts as written.
    for attempt in 0.. {
        let began = Instant::now();
        fs::write(&beside, "").unwrap();
        let names = fs::read_dir(place.mount.dir.path()).unwrap();
        assert!(
            names
                .map(|it| it.unwrap().file_name())
                .any(|it| it == "beside")
        );
        fs::write(&beside, content(0, attempt)).unwrap();
        let found = fs::metadata(&shown).unwrap().len();
        if began.elapsed() < Duration::from_secs(2) {
            assert_eq!(found, content(0, attempt).len() as u64);
            return;
        }
        fs::remove_file(&beside).unwrap();
    }
}
