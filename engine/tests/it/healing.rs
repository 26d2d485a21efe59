//! Tests a reader that is too slow: it gets every record while they fit in memory, and then the net
//! changes.

use std::collections::BTreeSet;

use agentfs_core::{BackstoreMode, FsConfig, LowerChange, Overlay, RenameFlags};
use agentfs_engine::service::QueueLimits;
use agentfs_engine::synth::inotify::{
    IN_ALL_EVENTS, IN_CREATE, IN_DELETE_SELF, IN_IGNORED, IN_MODIFY,
};
use agentfs_engine::{Api, WatchId};
use agentfs_proto::record::{Kind, flags};
use agentfs_ring::Capacity;
use agentfs_testkit::random::Random;

use crate::fixture::{Fixture, Popped, Reader, lower, masks};

/// Creates a service that holds only so many records in memory.
fn tight(records: usize) -> Fixture {
    tight_in(BackstoreMode::Memory, records)
}

/// Does as [`tight`], of a filesystem that is kept there.
fn tight_in(backstore: BackstoreMode, records: usize) -> Fixture {
    let limits = QueueLimits {
        spill_records: records,
        ..QueueLimits::default()
    };
    let config = FsConfig {
        backstore,
        ..FsConfig::default()
    };
    Fixture::with(config, limits)
}

#[test]
fn what_a_full_ring_does_not_take_waits_in_order() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let reader = fixture.open_sized(Api::Inotify, Capacity::MIN);
    fixture.watch(&reader, 1, "/d", IN_CREATE);
    for number in 0..2000 {
        fixture.create(&format!("/d/{number}"));
    }
    let report = reader.queue.report().unwrap();
    assert!(report.spilled > 1900 && !report.healing, "{report:?}");
    let names: Vec<String> = fixture.read(&reader).into_iter().map(|r| r.path).collect();
    let expected: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    assert_eq!(names, expected);
    assert_eq!(fixture.service.spilled_bytes(), 0);
    let counts = fixture.service.counts();
    assert_eq!((counts.healed, counts.overflowed), (0, 0));
}

/// A difference is between two states of the branch, and both show the host as it is.
#[test]
fn a_reader_that_comes_back_late_looks_again_at_what_the_host_changed() {
    let host = lower(&[]);
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: host.path().to_owned(),
        }),
        ..FsConfig::default()
    };
    let limits = QueueLimits {
        spill_records: 10,
        ..QueueLimits::default()
    };
    let fixture = Fixture::with(config, limits);
    let reader = fixture.open_sized(Api::Native, Capacity::MIN);
    fixture.watch_trees(&reader, 1, &["/"], 0);
    let make = |name: &str| {
        std::fs::write(host.path().join(name), "").unwrap();
        fixture.core.lower_changed(&LowerChange::Created {
            path: name.into(),
            is_dir: false,
        });
    };
    for number in 0..500 {
        make(&number.to_string());
    }
    assert!(reader.queue.report().unwrap().healing);
    let heard = fixture.read(&reader);
    assert!(heard.len() < 500);
    let overflow = heard.iter().filter(|it| it.head.kind == Kind::OVERFLOW);
    assert_eq!(overflow.count(), 1);
    make("after");
    assert_eq!(fixture.read(&reader).len(), 1, "back to events");
}

#[test]
fn a_reader_that_comes_back_late_has_exactly_the_net_changes() {
    let fixture = tight(10);
    fixture.mkdir("/d");
    let reader = fixture.open_sized(Api::Native, Capacity::MIN);
    fixture.watch_trees(&reader, 1, &["/"], 0);
    for number in 0..500 {
        fixture.create(&format!("/d/{number}"));
    }
    for number in 0..490 {
        fixture.unlink(&format!("/d/{number}"));
    }
    assert!(reader.queue.report().unwrap().healing);
    let heard = fixture.read(&reader);
    let (healed, delivered): (Vec<_>, Vec<_>) = heard
        .into_iter()
        .partition(|record| record.head.flags & flags::HEALED != 0);
    // What was delivered before is taken back, what came later is delivered once, and the rest was
    // never delivered.
    let removed = healed.iter().filter(|r| r.head.kind == Kind::REMOVED);
    let created = healed.iter().filter(|r| r.head.kind == Kind::CREATED);
    assert_eq!(removed.count(), delivered.len());
    assert_eq!(created.count(), 10);
    let counts = fixture.service.counts();
    assert_eq!((counts.healed, counts.overflowed), (1, 0));
    fixture.create("/after");
    assert_eq!(fixture.read(&reader).len(), 1, "back to events");
}

#[test]
fn a_watch_whose_file_went_unheard_ends_as_it_would_have() {
    let fixture = tight(5);
    fixture.mkdir("/d");
    fixture.create("/d/f");
    let reader = fixture.open_sized(Api::Inotify, Capacity::MIN);
    fixture.watch(&reader, 1, "/d", IN_CREATE);
    fixture.watch(&reader, 2, "/d/f", IN_ALL_EVENTS);
    for number in 0..200 {
        fixture.create(&format!("/d/{number}"));
    }
    fixture.unlink("/d/f");
    fixture.read(&reader);
    assert_eq!(fixture.service.watches(), (1, 0));
    fixture.create("/d/f");
    assert_eq!(masks(&fixture.read(&reader)), [(1, IN_CREATE)]);
}

#[test]
fn a_file_that_lost_its_name_before_and_its_handle_meanwhile_is_buried_too() {
    let fixture = tight(5);
    fixture.mkdir("/d");
    let flags = agentfs_core::OpenFlags::CREATE | agentfs_core::OpenFlags::WRITE_ONLY;
    let handle = fixture
        .branch
        .open(&fixture.caller, "/f", flags, 0o644)
        .unwrap();
    let reader = fixture.open_sized(Api::Inotify, Capacity::MIN);
    fixture.watch(&reader, 1, "/d", IN_CREATE);
    fixture.watch(&reader, 2, "/f", IN_DELETE_SELF);
    fixture.unlink("/f");
    for number in 0..200 {
        fixture.create(&format!("/d/{number}"));
    }
    fixture.branch.close(&fixture.caller, handle).unwrap();
    let of_file: Vec<(u64, u32)> = masks(&fixture.read(&reader))
        .into_iter()
        .filter(|(watch, _)| *watch == 2)
        .collect();
    assert_eq!(of_file, [(2, IN_DELETE_SELF), (2, IN_IGNORED)]);
    assert_eq!(fixture.service.watches(), (1, 0));
}

#[test]
fn new_content_found_by_difference_ends_with_a_close() {
    let fixture = tight(5);
    fixture.mkdir("/d");
    fixture.write("/f", b"one");
    let reader = fixture.open_sized(Api::Inotify, Capacity::MIN);
    fixture.watch(&reader, 1, "/d", IN_CREATE);
    fixture.watch(&reader, 2, "/f", 0x8);
    for number in 0..200 {
        fixture.create(&format!("/d/{number}"));
    }
    let origin = fixture.on_mount(1);
    fixture.write_as(&origin, "/f", b"two");
    let closes = masks(&fixture.read(&reader));
    assert_eq!(closes.iter().filter(|(watch, _)| *watch == 2).count(), 1);
}

#[test]
fn a_queue_may_fall_behind_again_while_it_is_being_healed() {
    let fixture = tight(20);
    fixture.mkdir("/d");
    let reader = fixture.open_sized(Api::Native, Capacity::MIN);
    fixture.watch_trees(&reader, 1, &["/d"], 0);
    let mut mirror = Mirror::default();
    for round in 0..10 {
        for number in 0..100 {
            fixture.create(&format!("/d/{round}-{number}"));
        }
        // One read of half a ring makes room for the refill.
        let (records, wants_refill) = reader.pop(20);
        records.iter().for_each(|record| mirror.apply(record));
        if wants_refill {
            fixture.service.refill(&reader.queue);
        }
    }
    fixture
        .read(&reader)
        .iter()
        .for_each(|record| mirror.apply(record));
    assert_eq!(mirror.paths.len(), 1000);
    assert!(fixture.service.counts().healed > 1);
}

#[test]
fn a_difference_is_worked_out_by_whoever_has_the_time() {
    let rig = tight(20);
    rig.mkdir("/d");
    let reader = rig.open_sized(Api::Native, Capacity::MIN);
    rig.watch_trees(&reader, 1, &["/d"], 0);
    let mut mirror = Mirror::default();
    for number in 0..500 {
        rig.create(&format!("/d/{number}"));
    }
    let mut deferred = 0;
    loop {
        let (records, wants_refill) = reader.pop(usize::MAX);
        records.iter().for_each(|record| mirror.apply(record));
        if !wants_refill {
            break;
        }
        if let Some(difference) = rig.service.refill_at_once(&reader.queue) {
            // Until it is worked out, a refill has nothing to do.
            assert!(rig.service.refill_at_once(&reader.queue).is_none());
            deferred += 1;
            rig.service.work_out(&reader.queue, &difference);
        }
    }
    assert_eq!((mirror.paths.len(), deferred), (500, 1));
}

#[test]
fn a_record_that_no_ring_holds_is_an_overflow_in_its_place() {
    let fixture = Fixture::new();
    let reader = fixture.open_sized(Api::Native, Capacity::MIN);
    fixture.watch_trees(&reader, 1, &["/"], 0);
    let deep = format!("/{}", "n".repeat(250)).repeat(9);
    for end in 1..=9 {
        fixture.mkdir(&deep[..end * 251]);
    }
    fixture.create("/f");
    let kinds: Vec<Kind> = fixture.read(&reader).iter().map(|r| r.head.kind).collect();
    let mut expected = vec![Kind::CREATED; 7];
    expected.extend([Kind::OVERFLOW, Kind::OVERFLOW, Kind::CREATED]);
    assert_eq!(kinds, expected);
    assert_eq!(fixture.service.counts().overflowed, 2);
}

#[test]
fn without_room_for_all_queues_each_one_is_healed() {
    let limits = QueueLimits {
        spill_bytes: 4096,
        ..QueueLimits::default()
    };
    let fixture = Fixture::with(FsConfig::default(), limits);
    fixture.mkdir("/d");
    let readers: Vec<Reader> = (0..4)
        .map(|_| fixture.open_sized(Api::Inotify, Capacity::MIN))
        .collect();
    for reader in &readers {
        fixture.watch(reader, 1, "/d", IN_CREATE | IN_MODIFY);
    }
    for number in 0..1000 {
        fixture.create(&format!("/d/{number}"));
    }
    assert!(fixture.service.spilled_bytes() < 8192);
    for reader in &readers {
        let names: BTreeSet<String> = fixture.read(reader).into_iter().map(|r| r.path).collect();
        assert_eq!(names.len(), 1000);
        fixture.service.unwatch(&reader.queue, WatchId(1)).unwrap();
    }
}

/// What a subscriber believes to exist.
#[derive(Debug, Default)]
struct Mirror {
    paths: BTreeSet<String>,
    /// The first half of an exchange was seen, and both halves were carried out.
    exchanged: bool,
}

impl Mirror {
    fn apply(&mut self, record: &Popped) {
        let Popped { head, path, aux } = record;
        let shown = format!("{} {path} {aux}", head.kind);
        match head.kind {
            Kind::CREATED => assert!(self.paths.insert(path.clone()), "twice: {shown}"),
            Kind::REMOVED => assert!(self.paths.remove(path), "never was: {shown}"),
            Kind::MODIFIED => {
                assert!(path == "/" || self.paths.contains(path), "unknown: {shown}");
            }
            Kind::RENAMED if head.flags & flags::EXCHANGE != 0 => {
                self.exchanged = !self.exchanged;
                if self.exchanged {
                    let (one, two) = (self.take(path), self.take(aux));
                    self.put(aux, one);
                    self.put(path, two);
                }
            }
            Kind::RENAMED => {
                let moved = self.take(path);
                self.take(aux);
                self.put(aux, moved);
            }
            Kind::CLOSED => {}
            other => panic!("{other}: {shown}"),
        }
    }

    /// Removes a path and everything below it; returns the rest of each path behind that path.
    fn take(&mut self, top: &str) -> Vec<String> {
        let below = format!("{top}/");
        let taken: Vec<String> = self
            .paths
            .iter()
            .filter(|path| *path == top || path.starts_with(&below))
            .cloned()
            .collect();
        for path in &taken {
            self.paths.remove(path);
        }
        let rest = taken.iter().map(|path| path[top.len()..].to_owned());
        rest.collect()
    }

    fn put(&mut self, top: &str, moved: Vec<String>) {
        assert!(!moved.is_empty(), "moved to {top}, but never was");
        self.paths
            .extend(moved.iter().map(|rest| format!("{top}{rest}")));
    }
}

/// Carries out one random operation on a few names; most operations succeed.
fn act(fixture: &Fixture, random: &mut Random) {
    let path = |random: &mut Random| {
        let depth = random.pick(&[1, 2, 3, 3]);
        let names = (0..depth).map(|_| random.pick(&["/a", "/a", "/b", "/c"]));
        names.collect::<String>()
    };
    let (path, to) = (path(random), path(random));
    let (branch, caller) = (&fixture.branch, &fixture.caller);
    // Operations that fail cause no events.
    match random.below(8) {
        0..=1 => drop(branch.mkdir(caller, &path, 0o755)),
        2..=3 => {
            let flags = agentfs_core::OpenFlags::CREATE | agentfs_core::OpenFlags::WRITE_ONLY;
            if let Ok(handle) = branch.open(caller, &path, flags, 0o644) {
                branch.write(caller, handle, b"x").unwrap();
                branch.close(caller, handle).unwrap();
            }
        }
        4 => drop(branch.unlink(caller, &path)),
        5 => drop(branch.rmdir(caller, &path)),
        6 => drop(branch.rename(caller, &path, &to, RenameFlags::REPLACE)),
        _ => drop(branch.rename(caller, &path, &to, RenameFlags::EXCHANGE)),
    }
}

fn walk(fixture: &Fixture, dir: &str, found: &mut BTreeSet<String>) {
    let path = if dir.is_empty() { "/" } else { dir };
    for entry in fixture.branch.list(&fixture.caller, path).unwrap() {
        let path = format!("{dir}/{}", String::from_utf8_lossy(&entry.name));
        if entry.kind.is_dir() {
            walk(fixture, &path, found);
        }
        found.insert(path);
    }
}

#[test]
fn a_mirror_fed_by_records_is_the_filesystem() {
    for seed in 1..=160_u64 {
        is_mirrored(BackstoreMode::Memory, seed);
    }
}

#[test]
fn a_mirror_fed_by_records_is_the_filesystem_in_a_store() {
    for seed in 161..=200_u64 {
        let beside = tempfile::tempdir().unwrap();
        is_mirrored(BackstoreMode::Disk(beside.path().join("store")), seed);
    }
}

/// A subscriber that reads now and then, with little memory behind it, never believes in a file
/// that did not exist, and in the end knows exactly what exists.
fn is_mirrored(backstore: BackstoreMode, seed: u64) {
    let fixture = tight_in(backstore, 8);
    let reader = fixture.open_sized(Api::Native, Capacity::MIN);
    fixture.watch_trees(&reader, 1, &["/"], 0);
    let mut mirror = Mirror::default();
    let mut random = Random::new(seed);
    for step in 0..600 {
        act(&fixture, &mut random);
        if step % 150 == 149 || random.below(40) == 0 {
            let (records, wants_refill) = reader.pop(30);
            records.iter().for_each(|record| mirror.apply(record));
            if wants_refill {
                fixture.service.refill(&reader.queue);
            }
        }
    }
    let rest = fixture.read(&reader);
    rest.iter().for_each(|record| mirror.apply(record));
    let mut there = BTreeSet::new();
    walk(&fixture, "", &mut there);
    assert_eq!(mirror.paths, there, "seed {seed}");
    assert_eq!(fixture.service.counts().overflowed, 0);
}
