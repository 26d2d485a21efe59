//! Tests that a program that was notified of a change sees it, on every mount, whichever side made
//! it.
//!
//! Writers change items through two mounts of one branch and by direct requests; every item goes
//! through versions that are counted when a change is asked for and when its event is delivered. A
//! reader that finds both counts equal, before and after it looked, must see exactly that version;
//! and never one that is older than what was delivered before it looked.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use agentfs_core::event::{Change, Envelope, EventKind, EventSink};
use agentfs_core::id::Seq;
use agentfs_core::{Branch, Caller, OpenFlags, RenameFlags};
use agentfs_mount::Settler;
use agentfs_testkit::environment::number;
use agentfs_testkit::random::Random;

use crate::support::{Fixture, Mounted};

/// How long the tests wait for an event that must come.
const DEADLINE: Duration = Duration::from_secs(20);
const ITEMS_OF_A_KIND: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The version is written into the file, and each one makes the file longer by a byte.
    Content,
    /// The file is there in odd versions.
    Presence,
    /// The file is named `x-` in even versions, `y-` in odd ones.
    Place,
    /// The version is in the permission bits.
    Mode,
}

#[derive(Debug)]
struct Item {
    kind: Kind,
    number: usize,
    asked: AtomicU64,
    delivered: Mutex<u64>,
    heard: Condvar,
    /// The lock of the writer that moves the item to the next version.
    writer: Mutex<()>,
}

impl Item {
    fn name(&self, version: u64) -> String {
        let number = self.number;
        match self.kind {
            Kind::Content => format!("content-{number}"),
            Kind::Presence => format!("presence-{number}"),
            Kind::Place if version.is_multiple_of(2) => format!("x-{number}"),
            Kind::Place => format!("y-{number}"),
            Kind::Mode => format!("mode-{number}"),
        }
    }

    fn delivered(&self) -> u64 {
        *self.delivered.lock().unwrap()
    }

    fn deliver(&self) {
        *self.delivered.lock().unwrap() += 1;
        self.heard.notify_all();
    }

    /// Waits until every reader was notified of the version before this one: only from then on it
    /// is certain to be seen.
    fn wait_for_version_before(&self, version: u64) {
        let delivered = self.delivered.lock().unwrap();
        let (delivered, _) = self
            .heard
            .wait_timeout_while(delivered, DEADLINE, |delivered| *delivered + 1 < version)
            .unwrap();
        assert_eq!(*delivered + 1, version, "{self:?}: an event is missing");
    }

    /// Waits until the last version is delivered: a change made through a mount is delivered after
    /// the program has its answer.
    fn wait_until_settled(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        let delivered = self.delivered.lock().unwrap();
        let (delivered, _) = self
            .heard
            .wait_timeout_while(delivered, DEADLINE, |delivered| *delivered < asked)
            .unwrap();
        assert_eq!(*delivered, asked, "{self:?}: an event is missing");
    }

    /// The version, if it is the one that was asked for last and everybody has heard of it.
    fn settled(&self) -> Option<u64> {
        let delivered = self.delivered();
        (self.asked.load(Ordering::SeqCst) == delivered).then_some(delivered)
    }
}

fn content(version: u64) -> Vec<u8> {
    let mut content = format!("{version:016}").into_bytes();
    let letter = b'a' + u8::try_from(version % 26).unwrap();
    content.extend(std::iter::repeat_n(
        letter,
        usize::try_from(version).unwrap(),
    ));
    content
}

fn mode(version: u64) -> u32 {
    0o600 | u32::try_from(version % 64).unwrap()
}

/// Counts what was delivered. The sink subscribes after the mounts, as every sink of a daemon does.
struct Heard {
    items: Vec<Arc<Item>>,
    by_name: HashMap<Vec<u8>, Arc<Item>>,
    settler: Settler,
}

impl EventSink for Heard {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        let (name, kind) = match &envelope.change {
            Change::Written { at: Some(at), .. } => (&at.name, Kind::Content),
            Change::Created { at, .. } | Change::Removed { at, .. } => (&at.name, Kind::Presence),
            Change::Renamed { to, .. } => (&to.name, Kind::Place),
            Change::Attributes { at: Some(at), .. } => (&at.name, Kind::Mode),
            Change::Written { .. }
            | Change::Attributes { .. }
            | Change::Resized { .. }
            | Change::Xattr { .. }
            | Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::Closed { .. } => return,
        };
        if let Some(item) = self.by_name.get(&**name)
            && item.kind == kind
        {
            self.settler.settle(envelope);
            item.deliver();
        }
    }
}

impl Heard {
    fn new(branch: &Branch, root: &Caller, settler: Settler) -> Self {
        let kinds = [Kind::Content, Kind::Presence, Kind::Place, Kind::Mode];
        let mut items = Vec::new();
        let mut by_name = HashMap::new();
        for kind in kinds {
            for number in 0..ITEMS_OF_A_KIND {
                let item = Arc::new(Item {
                    kind,
                    number,
                    asked: AtomicU64::new(0),
                    delivered: Mutex::default(),
                    heard: Condvar::new(),
                    writer: Mutex::default(),
                });
                for version in 0..2 {
                    by_name.insert(item.name(version).into_bytes(), item.clone());
                }
                if kind != Kind::Presence {
                    let handle = create(branch, root, &item.name(0));
                    branch.write_at(root, handle, 0, &content(0)).unwrap();
                    branch.close(root, handle).unwrap();
                    let mode = mode(0);
                    branch.chmod(root, item.name(0), mode).unwrap();
                }
                items.push(item);
            }
        }
        Self {
            items,
            by_name,
            settler,
        }
    }
}

fn create(branch: &Branch, caller: &Caller, name: &str) -> agentfs_core::HandleId {
    let flags = OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::READ_WRITE;
    branch.open(caller, name, flags, 0o644).unwrap()
}

/// The way by which a writer makes its changes.
enum Way<'a> {
    Direct(Branch, Caller),
    Mount(&'a Mounted),
}

impl Way<'_> {
    fn advance(&self, item: &Item) {
        let _writer = item.writer.lock().unwrap();
        let version = item.asked.fetch_add(1, Ordering::SeqCst) + 1;
        item.wait_for_version_before(version);
        let (old, new) = (item.name(version - 1), item.name(version));
        match self {
            Self::Direct(branch, root) => direct(branch, root, item.kind, &old, &new, version),
            Self::Mount(mount) => {
                mounted(item.kind, &mount.path(&old), &mount.path(&new), version);
            }
        }
    }
}

fn direct(branch: &Branch, root: &Caller, kind: Kind, old: &str, new: &str, version: u64) {
    match kind {
        Kind::Content => {
            let handle = branch.open(root, new, OpenFlags::WRITE_ONLY, 0).unwrap();
            branch.write_at(root, handle, 0, &content(version)).unwrap();
            branch.close(root, handle).unwrap();
        }
        Kind::Presence if version.is_multiple_of(2) => branch.unlink(root, new).unwrap(),
        Kind::Presence => {
            let handle = create(branch, root, new);
            branch.close(root, handle).unwrap();
        }
        Kind::Place => branch
            .rename(root, old, new, RenameFlags::NOREPLACE)
            .unwrap(),
        Kind::Mode => branch.chmod(root, new, mode(version)).unwrap(),
    }
}

fn mounted(kind: Kind, old: &PathBuf, new: &PathBuf, version: u64) {
    match kind {
        Kind::Content => {
            let file = fs::File::options().write(true).open(new).unwrap();
            file.write_all_at(&content(version), 0).unwrap();
        }
        Kind::Presence if version.is_multiple_of(2) => fs::remove_file(new).unwrap(),
        Kind::Presence => drop(fs::File::create_new(new).unwrap()),
        Kind::Place => fs::rename(old, new).unwrap(),
        Kind::Mode => {
            fs::set_permissions(new, fs::Permissions::from_mode(mode(version))).unwrap();
        }
    }
}

/// Looks at an item on a mount, and returns whether the item was settled, so that its version was
/// known exactly.
fn look(item: &Item, mount: &Mounted) -> bool {
    let delivered = item.delivered();
    let before = item.settled();
    let version = before.unwrap_or(delivered);
    let (here, elsewhere) = (mount.path(&item.name(version)), item.name(version + 1));
    let exists = here.exists();
    let other_exists = mount.path(&elsewhere).exists();
    let read = fs::read(&here).ok();
    let bits = attributes(&here);
    let settled = before.is_some() && item.settled() == before;
    if item.kind == Kind::Content {
        let read = read.as_ref().expect("a content item is always there");
        let seen: u64 = std::str::from_utf8(&read[..16]).unwrap().parse().unwrap();
        assert!(
            seen >= delivered,
            "{item:?}: read version {seen} after {delivered} was delivered"
        );
    }
    if !settled {
        return false;
    }
    let version_exists = item.kind != Kind::Presence || !version.is_multiple_of(2);
    assert_eq!(
        exists, version_exists,
        "{item:?}: there in version {version}?"
    );
    match item.kind {
        Kind::Content => {
            assert_eq!(read.unwrap(), content(version), "{item:?}");
            let size = 16 + version;
            assert!(
                bits.is_some_and(|(_, seen)| seen == size) || has_size(item, &here, size),
                "{item:?}: {bits:?}"
            );
        }
        Kind::Place => assert!(!other_exists, "{item:?}: {elsewhere} is there too"),
        Kind::Mode => assert!(
            bits.is_some_and(|(seen, _)| seen == mode(version)) || has_mode(item, &here, version),
            "{item:?}: {bits:?}"
        ),
        Kind::Presence => {}
    }
    true
}

/// Returns permission bits and size.
fn attributes(path: &Path) -> Option<(u32, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.permissions().mode() & 0o7777, found.len()))
}

/// Looks again, because at one instant the kernel calls attributes fresh before it has copied all
/// of them. What the mount gets wrong stays wrong.
fn has_size(item: &Item, path: &Path, size: u64) -> bool {
    let again = attributes(path);
    again.is_some_and(|(_, seen)| seen == size) || item.settled() != Some(size - 16)
}

/// Looks again, as [`has_size`] does.
fn has_mode(item: &Item, path: &Path, version: u64) -> bool {
    let again = attributes(path);
    again.is_some_and(|(seen, _)| seen == mode(version)) || item.settled() != Some(version)
}

/// Compares the listing of the directory with all items that are settled.
fn look_at_listing(heard: &Heard, mount: &Mounted) {
    let before: Vec<_> = heard.items.iter().map(|item| item.settled()).collect();
    let names: std::collections::HashSet<String> = fs::read_dir(mount.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for (item, before) in heard.items.iter().zip(before) {
        let Some(version) = before.filter(|_| item.settled() == before) else {
            continue;
        };
        let expected = item.kind != Kind::Presence || !version.is_multiple_of(2);
        let name = item.name(version);
        assert_eq!(names.contains(&name), expected, "listing, {item:?}");
        if item.kind == Kind::Place {
            assert!(
                !names.contains(&item.name(version + 1)),
                "listing, {item:?}"
            );
        }
    }
}

#[test]
fn no_mount_shows_what_is_older_than_a_delivered_event() {
    if let Some(fixture) = Fixture::empty() {
        shows_nothing_older(&fixture, 60_000);
    }
}

#[test]
fn no_mount_of_a_store_shows_what_is_older_than_a_delivered_event() {
    if let Some(fixture) = Fixture::in_store() {
        shows_nothing_older(&fixture, 40_000);
    }
}

fn shows_nothing_older(fixture: &Fixture, changes: u64) {
    let changes = number("AGENTFS_COHERENCE_CHANGES").unwrap_or(changes);
    let mounts = [fixture.mount(), fixture.mount()];
    let branch = fixture.main();
    let root = Caller::root();
    let heard = Arc::new(Heard::new(&branch, &root, fixture.mounts.settler()));
    fixture.fs.subscribe_events(heard.clone()).unwrap();
    let made = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let exact = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..4)
            .map(|reader| {
                let (heard, mounts, done, exact) = (&heard, &mounts, &done, &exact);
                scope.spawn(move || {
                    let mut rng = Random::new(1000 + reader);
                    while !done.load(Ordering::SeqCst) {
                        let item = rng.choose::<Arc<Item>>(&heard.items);
                        if look(item, rng.choose(mounts)) {
                            exact.fetch_add(1, Ordering::Relaxed);
                        }
                        if rng.range(0..50) == 0 {
                            look_at_listing(heard, rng.choose(mounts));
                        }
                    }
                })
            })
            .collect();
        let ways = [
            Way::Direct(branch.clone(), root.clone()),
            Way::Direct(branch.clone(), root.clone()),
            Way::Mount(&mounts[0]),
            Way::Mount(&mounts[1]),
        ];
        let writing: Vec<_> = ways
            .into_iter()
            .enumerate()
            .map(|(writer, way)| {
                let (heard, made) = (&heard, &made);
                scope.spawn(move || {
                    let mut rng = Random::new(writer as u64);
                    while made.fetch_add(1, Ordering::Relaxed) < changes {
                        way.advance(rng.choose::<Arc<Item>>(&heard.items));
                    }
                })
            })
            .collect();
        let written: Vec<_> = writing.into_iter().map(|thread| thread.join()).collect();
        done.store(true, Ordering::SeqCst);
        for thread in reading {
            thread.join().unwrap();
        }
        for result in written {
            result.unwrap();
        }
    });
    assert!(
        exact.into_inner() > 0,
        "no settled item was looked at while others changed"
    );
    // When no writer is at work, everything is settled, and both mounts agree to the last detail.
    for item in &heard.items {
        item.wait_until_settled();
        for mount in &mounts {
            assert!(look(item, mount), "{item:?} is not settled at the end");
        }
    }
}

/// A sink that records the last change that was delivered.
#[derive(Default)]
struct Delivered {
    last: Mutex<u64>,
    changed: Condvar,
}

impl EventSink for Delivered {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        *self.last.lock().unwrap() = envelope.seq.0;
        self.changed.notify_all();
    }
}

impl Delivered {
    fn wait_for(&self, seq: Seq) {
        let last = self.last.lock().unwrap();
        let (last, _) = self
            .changed
            .wait_timeout_while(last, DEADLINE, |last| *last < seq.0)
            .unwrap();
        assert!(*last >= seq.0, "change {seq} was not delivered");
    }
}

/// A lookup that is being answered makes an inode that is not there yet when its attributes change.
#[test]
fn a_file_that_changes_while_it_is_first_looked_up_is_seen_as_it_became() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    const ROUNDS: u64 = 20_000;
    let mount = fixture.mount();
    let branch = fixture.main();
    let root = Caller::root();
    let delivered = Arc::new(Delivered::default());
    fixture.fs.subscribe_events(delivered.clone()).unwrap();
    let round = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let round = round.load(Ordering::SeqCst);
                    if round == ROUNDS {
                        return;
                    }
                    // This test does not depend on whether the file is already there.
                    drop(fs::metadata(mount.path(&format!("f{round}"))));
                    drop(fs::read_dir(mount.dir.path()).unwrap().next());
                }
            });
        }
        let check = |name: &str, version: u64| {
            let path = mount.path(name);
            let expected = Some((mode(version), 16 + version));
            let first = attributes(&path);
            // As `has_size` explains, what is wrong twice stays wrong.
            if first != expected {
                assert_eq!(
                    attributes(&path),
                    expected,
                    "{name}: twice, first {first:?}"
                );
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..ROUNDS {
                let name = format!("f{number}");
                round.store(number, Ordering::SeqCst);
                let handle = create(&branch, &root, &name);
                for version in 1..4 {
                    branch
                        .write_at(&root, handle, 0, &content(version))
                        .unwrap();
                    branch.chmod(&root, &name, mode(version)).unwrap();
                    delivered.wait_for(branch.last_seq());
                    check(&name, version);
                }
                branch.close(&root, handle).unwrap();
                branch.unlink(&root, &name).unwrap();
            }
        }));
        round.store(ROUNDS, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}
