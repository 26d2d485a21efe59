//! Tests which watches hear a change.

use agentfs_core::id::{MountId, SessionId};
use agentfs_core::{Caller, FsConfig, Overlay};
use agentfs_engine::service::{QueueLimits, WatchError};
use agentfs_engine::synth::inotify::{
    IN_ALL_EVENTS, IN_ATTRIB, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_IGNORED, IN_ISDIR,
    IN_MASK_ADD, IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO, IN_ONESHOT,
};
use agentfs_engine::synth::vnode::{
    NOTE_ATTRIB, NOTE_DELETE, NOTE_EXTEND, NOTE_LINK, NOTE_RENAME, NOTE_WRITE,
};
use agentfs_engine::{Api, WatchId};
use agentfs_proto::record::Kind;
use agentfs_ring::Capacity;

use crate::rig::{Reader, Rig, lower, masks, stories, write_in};

const ALL_NOTES: u32 =
    NOTE_DELETE | NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_LINK | NOTE_RENAME;

#[test]
fn a_watch_hears_its_node_and_no_other() {
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.mkdir("/e");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d", IN_CREATE | IN_DELETE);
    rig.create("/e/f");
    rig.create("/top");
    assert!(rig.read(&reader).is_empty());
    rig.create("/d/f");
    let heard = rig.read(&reader);
    assert_eq!(masks(&heard), [(1, IN_CREATE)]);
    assert_eq!(heard[0].path, "f");
    rig.service.unwatch(&reader.queue, WatchId(1)).unwrap();
    rig.create("/d/g");
    assert!(rig.read(&reader).is_empty());
    assert_eq!(rig.service.watches(), (0, 0));
}

#[test]
fn a_watch_does_not_hear_what_was_before_it() {
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.create("/d/before");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d", IN_ALL_EVENTS);
    assert!(rig.read(&reader).is_empty());
}

#[test]
fn other_branches_are_not_heard() {
    let rig = Rig::new();
    rig.mkdir("/d");
    let other = rig
        .core
        .branch_create_from_current(&rig.caller, rig.branch.id(), "other")
        .unwrap();
    let branch = rig.core.branch(other).unwrap();
    let session = SessionId(2);
    rig.service.open_session(session, other);
    let reader = rig.open(Api::Inotify);
    let theirs = rig.open_for(session, Api::Inotify, Capacity::DEFAULT);
    let trees = rig.open(Api::Native);
    rig.watch(&reader, 1, "/d", IN_CREATE);
    rig.watch(&theirs, 1, "/d", IN_CREATE);
    rig.watch_trees(&trees, 1, &["/"], 0);
    write_in(&branch, &rig.caller, "/d/f", b"");
    assert!(rig.read(&reader).is_empty());
    assert!(rig.read(&trees).is_empty());
    assert_eq!(masks(&rig.read(&theirs)), [(1, IN_CREATE)]);
}

#[test]
fn a_whiteout_ends_the_watch_of_what_it_hides() {
    let below = lower(&["d/f"]);
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: below.path().to_owned(),
        }),
        ..FsConfig::default()
    };
    let rig = Rig::with(config, QueueLimits::default());
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d/f", IN_ALL_EVENTS & !super::ACTIVITY);
    rig.unlink("/d/f");
    let heard = masks(&rig.read(&reader));
    assert_eq!(
        heard,
        [(1, IN_ATTRIB), (1, IN_DELETE_SELF), (1, IN_IGNORED)]
    );
    rig.write("/d/f", b"another file of the same name");
    assert!(rig.read(&reader).is_empty());
    assert_eq!(rig.service.watches(), (0, 0));
}

#[test]
fn both_directories_of_a_rename_hear_it_with_one_cookie() {
    let rig = Rig::new();
    rig.mkdir("/d");
    rig.mkdir("/e");
    rig.create("/d/f");
    let (one, two) = (rig.open(Api::Inotify), rig.open(Api::Inotify));
    rig.watch(&one, 1, "/d", IN_ALL_EVENTS);
    rig.watch(&two, 1, "/e", IN_ALL_EVENTS);
    rig.rename("/d/f", "/e/g");
    let (from, to) = (rig.read(&one), rig.read(&two));
    assert_eq!(masks(&from), [(1, IN_MOVED_FROM)]);
    assert_eq!(masks(&to), [(1, IN_MOVED_TO)]);
    assert_eq!((from[0].path.as_str(), to[0].path.as_str()), ("f", "g"));
    assert_eq!(from[0].head.cookie, to[0].head.cookie);
    assert!(from[0].head.cookie >= 0x8000_0000);
}

#[test]
fn a_watch_follows_its_node_through_renames_and_leaves_the_path() {
    let rig = Rig::new();
    rig.write("/f", b"old");
    let reader = rig.open(Api::KqueueXnu);
    rig.watch(&reader, 7, "/f", ALL_NOTES);
    rig.rename("/f", "/g");
    assert_eq!(masks(&rig.read(&reader)), [(7, NOTE_RENAME)]);
    rig.write("/f", b"a new file at the old path");
    assert!(rig.read(&reader).is_empty());
    rig.write("/g", b"new");
    assert_eq!(masks(&rig.read(&reader)), [(7, NOTE_WRITE)]);
    rig.rename("/f", "/g");
    assert_eq!(masks(&rig.read(&reader)), [(7, NOTE_DELETE)]);
}

#[test]
fn what_is_done_on_the_watchers_own_mount_is_left_to_the_kernel() {
    let rig = Rig::new();
    rig.write("/f", b"");
    let reader = rig.open(Api::Inotify);
    rig.watch_from(&reader, 1, "/f", IN_MODIFY, Some(MountId(7)));
    rig.write_as(&rig.on_mount(7), "/f", b"x");
    assert!(rig.read(&reader).is_empty());
    for caller in [rig.on_mount(8), Caller::root()] {
        rig.write_as(&caller, "/f", b"x");
        assert_eq!(masks(&rig.read(&reader)), [(1, IN_MODIFY)]);
    }
    // The kernel has sent IN_IGNORED, and the watch is gone without a further event.
    rig.branch.unlink(&rig.on_mount(7), "/f").unwrap();
    assert!(rig.read(&reader).is_empty());
    assert_eq!(rig.service.watches(), (0, 0));
}

#[test]
fn inotify_masks_are_replaced_or_added_to_and_oneshot_ends_the_watch() {
    let rig = Rig::new();
    rig.mkdir("/d");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/d", IN_DELETE);
    rig.watch(&reader, 1, "/d", IN_CREATE | IN_MASK_ADD);
    rig.create("/d/f");
    rig.unlink("/d/f");
    assert_eq!(masks(&rig.read(&reader)), [(1, IN_CREATE), (1, IN_DELETE)]);
    rig.watch(&reader, 1, "/d", IN_CREATE | IN_ONESHOT);
    rig.mkdir("/d/s");
    rig.mkdir("/d/t");
    assert_eq!(
        masks(&rig.read(&reader)),
        [(1, IN_CREATE | IN_ISDIR), (1, IN_IGNORED)]
    );
    assert_eq!(rig.service.watches(), (0, 0));
}

#[test]
fn opening_and_reading_are_told_only_while_somebody_asks() {
    use agentfs_core::event::EventSink as _;
    let rig = Rig::new();
    rig.create("/f");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/f", IN_MODIFY);
    assert!(!rig.service.wants_activity());
    rig.watch(&reader, 1, "/f", IN_MODIFY | super::ACTIVITY);
    assert!(rig.service.wants_activity());
    rig.create("/f");
    assert_eq!(rig.read(&reader).len(), 2, "open and close");
    rig.service.unwatch(&reader.queue, WatchId(1)).unwrap();
    assert!(!rig.service.wants_activity());
}

fn tree_of(paths: &[&str]) -> (Rig, Reader) {
    let rig = Rig::new();
    for dir in ["/a", "/a/b", "/a/bc", "/x"] {
        rig.mkdir(dir);
    }
    let reader = rig.open(Api::Native);
    rig.watch_trees(&reader, 1, paths, 0);
    (rig, reader)
}

#[test]
fn a_tree_holds_its_top_and_what_is_below_but_no_neighbour() {
    let (rig, reader) = tree_of(&["/a/b"]);
    rig.create("/a/b/f");
    rig.create("/a/bc/f");
    rig.create("/a/f");
    rig.branch.chmod(&rig.caller, "/a/b", 0o700).unwrap();
    assert_eq!(
        stories(&rig.read(&reader)),
        ["created /a/b/f", "modified /a/b"]
    );
}

#[test]
fn a_rename_is_told_once_to_a_tree_that_holds_either_name() {
    let (rig, reader) = tree_of(&["/a"]);
    rig.create("/x/f");
    rig.rename("/x/f", "/a/f");
    rig.rename("/a/f", "/a/b/f");
    rig.rename("/a/b/f", "/x/f");
    rig.rename("/x/f", "/x/g");
    assert_eq!(
        stories(&rig.read(&reader)),
        [
            "renamed /x/f /a/f",
            "renamed /a/f /a/b/f",
            "renamed /a/b/f /x/f"
        ]
    );
}

#[test]
fn the_root_tree_hears_everything_and_new_branches_by_name() {
    let (rig, reader) = tree_of(&["/"]);
    rig.create("/f");
    rig.branch.chmod(&rig.caller, "/", 0o700).unwrap();
    rig.core
        .snapshot_create(&rig.caller, rig.branch.id(), "tag")
        .unwrap();
    assert_eq!(
        stories(&rig.read(&reader)),
        ["created /f", "modified /", "snapshot_created tag"]
    );
}

#[test]
fn a_tree_may_be_deeper_than_any_directory_there_is() {
    let (rig, reader) = tree_of(&["/not/yet/here"]);
    rig.mkdir("/not");
    rig.mkdir("/not/yet");
    rig.mkdir("/not/yet/here");
    rig.create("/not/yet/here/f");
    assert_eq!(
        stories(&rig.read(&reader)),
        ["created /not/yet/here", "created /not/yet/here/f"]
    );
}

#[test]
fn a_queue_takes_only_watches_of_its_api() {
    let rig = Rig::new();
    let reader = rig.open(Api::Native);
    let interest = agentfs_engine::service::NodeInterest {
        mask: IN_CREATE,
        mount: None,
        after: rig.branch.last_seq(),
    };
    let node = rig.node("/");
    let refused = rig
        .service
        .watch_node(&reader.queue, WatchId(1), node, interest);
    assert!(matches!(refused, Err(WatchError::OtherApi(Api::Native))));
    let unknown = rig.service.unwatch(&reader.queue, WatchId(1));
    assert!(matches!(unknown, Err(WatchError::NoWatch(WatchId(1)))));
}

#[test]
fn a_restore_is_told_as_the_difference_with_the_close_that_content_ends_with() {
    let rig = Rig::new();
    rig.write("/f", b"one");
    let snapshot = rig
        .core
        .snapshot_create(&rig.caller, rig.branch.id(), "")
        .unwrap();
    rig.write("/f", b"two");
    rig.create("/g");
    let reader = rig.open(Api::Inotify);
    rig.watch(&reader, 1, "/", IN_ALL_EVENTS);
    rig.core
        .restore(&rig.caller, rig.branch.id(), snapshot)
        .unwrap();
    let heard = rig.read(&reader);
    let pairs: Vec<(u32, &str)> = heard
        .iter()
        .map(|record| (record.head.mask, record.path.as_str()))
        .collect();
    assert_eq!(pairs, [(IN_DELETE, "g"), (IN_MODIFY, "f"), (0x8, "f")]);
    assert!(
        heard
            .iter()
            .all(|record| record.head.kind != Kind::OVERFLOW)
    );
}
