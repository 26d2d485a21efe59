//! Tests coalescing: an event that adds nothing to an unread record makes no record of its own, and
//! a reader that is awake is not woken.

use agentfs_engine::Api;
use agentfs_engine::synth::fsevents::{
    CREATE_FILE_EVENTS, CREATE_WATCH_ROOT, ITEM_CREATED, ITEM_IS_FILE, ITEM_RENAMED, ROOT_CHANGED,
};
use agentfs_engine::synth::inotify::{IN_ALL_EVENTS, IN_CREATE, IN_MODIFY};
use agentfs_engine::synth::vnode::{NOTE_ATTRIB, NOTE_DELETE, NOTE_EXTEND, NOTE_WRITE};
use agentfs_ring::{ArmOutcome, Capacity};

use crate::fixture::{Fixture, masks, stories};

fn repeat(fixture: &Fixture, path: &str, times: usize) {
    for _ in 0..times {
        fixture.write(path, b"x");
    }
}

#[test]
fn many_writes_are_one_record_and_one_wake_up() {
    for (api, mask) in [
        (Api::KqueueXnu, NOTE_WRITE),
        (Api::KqueueFreeBsd, NOTE_WRITE),
        (Api::Inotify, IN_MODIFY),
    ] {
        let fixture = Fixture::new();
        fixture.write("/f", b"x");
        let reader = fixture.open(api);
        fixture.watch(&reader, 1, "/f", mask);
        assert_eq!(reader.arm(), ArmOutcome::MaySleep);
        repeat(&fixture, "/f", 1000);
        let counts = fixture.service.counts();
        assert_eq!((counts.published, counts.doorbells), (1, 1), "{api:?}");
        assert_eq!(counts.coalesced, 999);
        assert_eq!(masks(&fixture.read(&reader)), [(1, mask)]);
        repeat(&fixture, "/f", 3);
        assert_eq!(masks(&fixture.read(&reader)), [(1, mask)]);
    }
}

#[test]
fn a_reader_that_is_awake_is_not_woken() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d", IN_CREATE);
    fixture.create("/d/a");
    assert_eq!(fixture.service.counts().doorbells, 0);
    assert_eq!(reader.arm(), ArmOutcome::WorkPending);
    assert_eq!(fixture.read(&reader).len(), 1);
    assert_eq!(reader.arm(), ArmOutcome::MaySleep);
    fixture.create("/d/b");
    fixture.create("/d/c");
    assert_eq!(fixture.service.counts().doorbells, 1);
}

#[test]
fn a_knote_gets_one_record_for_each_new_bit() {
    let fixture = Fixture::new();
    fixture.write("/f", b"x");
    let reader = fixture.open(Api::KqueueXnu);
    let interest = NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_DELETE;
    fixture.watch(&reader, 1, "/f", interest);
    for _ in 0..10 {
        fixture.write("/f", b"longer");
        fixture.branch.chmod(&fixture.caller, "/f", 0o600).unwrap();
        fixture.branch.truncate(&fixture.caller, "/f", 1).unwrap();
    }
    assert_eq!(
        masks(&fixture.read(&reader)),
        [(1, NOTE_EXTEND), (1, NOTE_WRITE), (1, NOTE_ATTRIB)]
    );
}

#[test]
fn a_bit_is_told_again_once_its_record_was_read_although_later_ones_were_not() {
    let fixture = Fixture::new();
    fixture.write("/f", b"x");
    let reader = fixture.open(Api::KqueueXnu);
    fixture.watch(&reader, 1, "/f", NOTE_WRITE | NOTE_ATTRIB);
    fixture.write("/f", b"x");
    fixture.branch.chmod(&fixture.caller, "/f", 0o600).unwrap();
    let (first, _) = reader.pop(1);
    assert_eq!(masks(&first), [(1, NOTE_WRITE)]);
    fixture.write("/f", b"x");
    assert_eq!(
        masks(&fixture.read(&reader)),
        [(1, NOTE_ATTRIB), (1, NOTE_WRITE)]
    );
}

#[test]
fn inotify_merges_only_with_the_last_record_of_the_queue() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.write("/d/f", b"x");
    fixture.write("/d/g", b"x");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d", IN_MODIFY);
    for path in ["/d/f", "/d/f", "/d/g", "/d/f", "/d/f"] {
        fixture.write(path, b"x");
    }
    let names: Vec<String> = fixture.read(&reader).into_iter().map(|r| r.path).collect();
    assert_eq!(names, ["f", "g", "f"]);
}

#[test]
fn merging_goes_on_while_records_wait_in_memory() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let reader = fixture.open_sized(Api::Inotify, Capacity::MIN);
    fixture.watch(&reader, 1, "/d", IN_CREATE | IN_MODIFY);
    for number in 0..100 {
        fixture.create(&format!("/d/{number}"));
    }
    repeat(&fixture, "/d/0", 100);
    let heard = fixture.read(&reader);
    assert_eq!(heard.len(), 101);
    assert_eq!(heard.last().map(|record| record.head.mask), Some(IN_MODIFY));
}

#[test]
fn native_subscribers_hear_a_burst_once_and_everything_else_in_order() {
    let fixture = Fixture::new();
    fixture.write("/f", b"x");
    let reader = fixture.open(Api::Native);
    fixture.watch_trees(&reader, 1, &["/"], 0);
    repeat(&fixture, "/f", 50);
    fixture.branch.chmod(&fixture.caller, "/f", 0o600).unwrap();
    repeat(&fixture, "/f", 50);
    fixture.create("/g");
    repeat(&fixture, "/f", 50);
    assert_eq!(
        stories(&fixture.read(&reader)),
        [
            "modified /f",
            "modified /f",
            "modified /f",
            "created /g",
            "modified /f"
        ]
    );
}

#[test]
fn file_level_streams_join_the_flags_of_a_path() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let reader = fixture.open(Api::FsEvents);
    fixture.watch_trees(&reader, 1, &["/d"], CREATE_FILE_EVENTS);
    fixture.create("/d/f");
    fixture.rename("/d/f", "/d/g");
    fixture.rename("/d/g", "/d/f");
    fixture.rename("/d/f", "/d/g");
    let heard: Vec<(String, u32)> = fixture
        .read(&reader)
        .into_iter()
        .map(|record| (record.path, record.head.mask))
        .collect();
    let renamed = ITEM_RENAMED | ITEM_IS_FILE;
    assert_eq!(
        heard,
        [
            ("/d/f".to_owned(), ITEM_CREATED | ITEM_IS_FILE),
            ("/d/f".to_owned(), renamed),
            ("/d/g".to_owned(), renamed),
        ]
    );
}

#[test]
fn directory_level_streams_name_each_directory_once() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.mkdir("/d/s");
    let reader = fixture.open(Api::FsEvents);
    fixture.watch_trees(&reader, 1, &["/"], 0);
    for number in 0..10 {
        fixture.create(&format!("/d/{number}"));
        fixture.create(&format!("/d/s/{number}"));
    }
    fixture.create("/top");
    let paths: Vec<String> = fixture.read(&reader).into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/d/", "/d/s/", "/"]);
}

#[test]
fn a_stream_that_asked_hears_when_its_root_moves() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.mkdir("/d/s");
    let reader = fixture.open(Api::FsEvents);
    fixture.watch_trees(&reader, 1, &["/d/s"], CREATE_WATCH_ROOT);
    fixture.rename("/d", "/e");
    assert_eq!(masks(&fixture.read(&reader)), [(1, ROOT_CHANGED)]);
}

#[test]
fn overlapping_watches_of_one_instance_hear_in_the_kernels_order() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.write("/d/f", b"x");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d/f", IN_ALL_EVENTS & !super::ACTIVITY);
    fixture.watch(&reader, 2, "/d", IN_ALL_EVENTS & !super::ACTIVITY);
    fixture.write("/d/f", b"y");
    fixture.write("/d/f", b"z");
    let heard: Vec<u64> = fixture.read(&reader).iter().map(|r| r.head.watch).collect();
    assert_eq!(heard, [2, 1, 2, 1]);
}
