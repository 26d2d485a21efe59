//! Tests coalescing: an event that adds nothing to an unread record makes no record of its own, and
//! a reader that is awake is not woken.

use agentfs_engine::Api;
use agentfs_engine::synth::fsevents::{
    CREATE_FILE_EVENTS, CREATE_WATCH_ROOT, ITEM_CREATED, ITEM_IS_FILE, ITEM_RENAMED, ROOT_CHANGED,
};
use agentfs_engine::synth::inotify::{IN_ALL_EVENTS, IN_CREATE, IN_MODIFY};
use agentfs_engine::synth::vnode::{NOTE_ATTRIB, NOTE_DELETE, NOTE_EXTEND, NOTE_WRITE};
use agentfs_ring::{ArmOutcome, Capacity};

use crate::rig::{Rig, masks, stories};

fn repeat(rig: &Rig, path: &str, times: usize) {
    for _ in 0..times {
        rig.write(path, b"x");
    }
}

#[test]
fn many_writes_are_one_record_and_one_wake_up() {
    for (api, mask) in [
        (Api::KqueueXnu, NOTE_WRITE),
        (Api::KqueueFreeBsd, NOTE_WRITE),
        (Api::Inotify, IN_MODIFY),
    ] {
        let rig = Rig::new();
        rig.write("/f", b"x");
        let reader = rig.open(api);
        rig.watch(&reader, 1, "/f", mask);
        assert_eq!(reader.arm(), ArmOutcome::MaySleep);
        repeat(&rig, "/f", 1000);
        let counts = rig.service.counts();
        assert_eq!((counts.published, counts.doorbells), (1, 1), "{api:?}");
        assert_eq!(counts.coalesced, 999);
        assert_eq!(masks(&rig.read(&reader)), [(1, mask)]);
        repeat(&rig, "/f", 3);
        assert_eq!(masks(&rig.read(&reader)), [(1, mask)]);
    }
}

#[test]
fn a_reader_that_is_awake_is_not_woken() {
    let rig = Rig::new();
    rig.mkdir("/d");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d", IN_CREATE);
    rig.create("/d/a");
    assert_eq!(rig.service.counts().doorbells, 0);
    assert_eq!(reader.arm(), ArmOutcome::WorkPending);
    assert_eq!(rig.read(&reader).len(), 1);
    assert_eq!(reader.arm(), ArmOutcome::MaySleep);
    rig.create("/d/b");
    rig.create("/d/c");
    assert_eq!(rig.service.counts().doorbells, 1);
}

#[test]
fn a_knote_gets_one_record_for_each_new_bit() {
    let rig = Rig::new();
    rig.write("/f", b"x");
    let reader = rig.open(Api::KqueueXnu);
    let interest = NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_DELETE;
    rig.watch(&reader, 1, "/f", interest);
    for _ in 0..10 {
        rig.write("/f", b"longer");
        rig.branch.chmod(&rig.caller, "/f", 0o600).unwrap();
        rig.branch.truncate(&rig.caller, "/f", 1).unwrap();
    }
    assert_eq!(
        masks(&rig.read(&reader)),
        [(1, NOTE_EXTEND), (1, NOTE_WRITE), (1, NOTE_ATTRIB)]
    );
}

#[test]
fn a_bit_is_told_again_once_its_record_was_read_although_later_ones_were_not() {
    let rig = Rig::new();
    rig.write("/f", b"x");
    let reader = rig.open(Api::KqueueXnu);
    rig.watch(&reader, 1, "/f", NOTE_WRITE | NOTE_ATTRIB);
    rig.write("/f", b"x");
    rig.branch.chmod(&rig.caller, "/f", 0o600).unwrap();
    let (first, _) = reader.pop(1);
    assert_eq!(masks(&first), [(1, NOTE_WRITE)]);
    rig.write("/f", b"x");
    assert_eq!(
        masks(&rig.read(&reader)),
        [(1, NOTE_ATTRIB), (1, NOTE_WRITE)]
    );
}

#[test]
fn inotify_merges_only_with_the_last_record_of_the_queue() {
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.write("/d/f", b"x");
    rig.write("/d/g", b"x");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d", IN_MODIFY);
    for path in ["/d/f", "/d/f", "/d/g", "/d/f", "/d/f"] {
        rig.write(path, b"x");
    }
    let names: Vec<String> = rig.read(&reader).into_iter().map(|r| r.path).collect();
    assert_eq!(names, ["f", "g", "f"]);
}

#[test]
fn merging_goes_on_while_records_wait_in_memory() {
    let rig = Rig::new();
    rig.mkdir("/d");
    let reader = rig.open_sized(Api::Inotify, Capacity::MIN);
    rig.watch(&reader, 1, "/d", IN_CREATE | IN_MODIFY);
    for number in 0..100 {
        rig.create(&format!("/d/{number}"));
    }
    repeat(&rig, "/d/0", 100);
    let heard = rig.read(&reader);
    assert_eq!(heard.len(), 101);
    assert_eq!(heard.last().map(|record| record.head.mask), Some(IN_MODIFY));
}

#[test]
fn native_subscribers_hear_a_burst_once_and_everything_else_in_order() {
    let rig = Rig::new();
    rig.write("/f", b"x");
    let reader = rig.open(Api::Native);
    rig.watch_trees(&reader, 1, &["/"], 0);
    repeat(&rig, "/f", 50);
    rig.branch.chmod(&rig.caller, "/f", 0o600).unwrap();
    repeat(&rig, "/f", 50);
    rig.create("/g");
    repeat(&rig, "/f", 50);
    assert_eq!(
        stories(&rig.read(&reader)),
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
    let rig = Rig::new();
    rig.mkdir("/d");
    let reader = rig.open(Api::FsEvents);
    rig.watch_trees(&reader, 1, &["/d"], CREATE_FILE_EVENTS);
    rig.create("/d/f");
    rig.rename("/d/f", "/d/g");
    rig.rename("/d/g", "/d/f");
    rig.rename("/d/f", "/d/g");
    let heard: Vec<(String, u32)> = rig
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
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.mkdir("/d/s");
    let reader = rig.open(Api::FsEvents);
    rig.watch_trees(&reader, 1, &["/"], 0);
    for number in 0..10 {
        rig.create(&format!("/d/{number}"));
        rig.create(&format!("/d/s/{number}"));
    }
    rig.create("/top");
    let paths: Vec<String> = rig.read(&reader).into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/d/", "/d/s/", "/"]);
}

#[test]
fn a_stream_that_asked_hears_when_its_root_moves() {
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.mkdir("/d/s");
    let reader = rig.open(Api::FsEvents);
    rig.watch_trees(&reader, 1, &["/d/s"], CREATE_WATCH_ROOT);
    rig.rename("/d", "/e");
    assert_eq!(masks(&rig.read(&reader)), [(1, ROOT_CHANGED)]);
}

#[test]
fn overlapping_watches_of_one_instance_hear_in_the_kernels_order() {
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.write("/d/f", b"x");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d/f", IN_ALL_EVENTS & !super::ACTIVITY);
    rig.watch(&reader, 2, "/d", IN_ALL_EVENTS & !super::ACTIVITY);
    rig.write("/d/f", b"y");
    rig.write("/d/f", b"z");
    let heard: Vec<u64> = rig.read(&reader).iter().map(|r| r.head.watch).collect();
    assert_eq!(heard, [2, 1, 2, 1]);
}
