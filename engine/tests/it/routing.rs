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

use crate::fixture::{Fixture, Reader, lower, masks, stories, write_in};

const ALL_NOTES: u32 =
    NOTE_DELETE | NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | NOTE_LINK | NOTE_RENAME;

#[test]
fn a_watch_hears_its_node_and_no_other() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.mkdir("/e");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d", IN_CREATE | IN_DELETE);
    fixture.create("/e/f");
    fixture.create("/top");
    assert!(fixture.read(&reader).is_empty());
    fixture.create("/d/f");
    let heard = fixture.read(&reader);
    assert_eq!(masks(&heard), [(1, IN_CREATE)]);
    assert_eq!(heard[0].path, "f");
    fixture.service.unwatch(&reader.queue, WatchId(1)).unwrap();
    fixture.create("/d/g");
    assert!(fixture.read(&reader).is_empty());
    assert_eq!(fixture.service.watches(), (0, 0));
}

#[test]
fn a_watch_does_not_hear_what_was_before_it() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.create("/d/before");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d", IN_ALL_EVENTS);
    assert!(fixture.read(&reader).is_empty());
}

#[test]
fn other_branches_are_not_heard() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let other = fixture
        .core
        .branch_create_from_current(&fixture.caller, fixture.branch.id(), "other")
        .unwrap();
    let branch = fixture.core.branch(other).unwrap();
    let session = SessionId(2);
    fixture.service.open_session(session, other);
    let reader = fixture.open(Api::Inotify);
    let theirs = fixture.open_for(session, Api::Inotify, Capacity::DEFAULT);
    let trees = fixture.open(Api::Native);
    fixture.watch(&reader, 1, "/d", IN_CREATE);
    fixture.watch(&theirs, 1, "/d", IN_CREATE);
    fixture.watch_trees(&trees, 1, &["/"], 0);
    write_in(&branch, &fixture.caller, "/d/f", b"");
    assert!(fixture.read(&reader).is_empty());
    assert!(fixture.read(&trees).is_empty());
    assert_eq!(masks(&fixture.read(&theirs)), [(1, IN_CREATE)]);
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
    let fixture = Fixture::with(config, QueueLimits::default());
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d/f", IN_ALL_EVENTS & !super::ACTIVITY);
    fixture.unlink("/d/f");
    let heard = masks(&fixture.read(&reader));
    assert_eq!(
        heard,
        [(1, IN_ATTRIB), (1, IN_DELETE_SELF), (1, IN_IGNORED)]
    );
    fixture.write("/d/f", b"another file of the same name");
    assert!(fixture.read(&reader).is_empty());
    assert_eq!(fixture.service.watches(), (0, 0));
}

#[test]
fn both_directories_of_a_rename_hear_it_with_one_cookie() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.mkdir("/e");
    fixture.create("/d/f");
    let (one, two) = (fixture.open(Api::Inotify), fixture.open(Api::Inotify));
    fixture.watch(&one, 1, "/d", IN_ALL_EVENTS);
    fixture.watch(&two, 1, "/e", IN_ALL_EVENTS);
    fixture.rename("/d/f", "/e/g");
    let (from, to) = (fixture.read(&one), fixture.read(&two));
    assert_eq!(masks(&from), [(1, IN_MOVED_FROM)]);
    assert_eq!(masks(&to), [(1, IN_MOVED_TO)]);
    assert_eq!((from[0].path.as_str(), to[0].path.as_str()), ("f", "g"));
    assert_eq!(from[0].head.cookie, to[0].head.cookie);
    assert!(from[0].head.cookie >= 0x8000_0000);
}

#[test]
fn a_watch_follows_its_node_through_renames_and_leaves_the_path() {
    let fixture = Fixture::new();
    fixture.write("/f", b"old");
    let reader = fixture.open(Api::KqueueXnu);
    fixture.watch(&reader, 7, "/f", ALL_NOTES);
    fixture.rename("/f", "/g");
    assert_eq!(masks(&fixture.read(&reader)), [(7, NOTE_RENAME)]);
    fixture.write("/f", b"a new file at the old path");
    assert!(fixture.read(&reader).is_empty());
    fixture.write("/g", b"new");
    assert_eq!(masks(&fixture.read(&reader)), [(7, NOTE_WRITE)]);
    fixture.rename("/f", "/g");
    assert_eq!(masks(&fixture.read(&reader)), [(7, NOTE_DELETE)]);
}

#[test]
fn what_is_done_on_the_watchers_own_mount_is_left_to_the_kernel() {
    let fixture = Fixture::new();
    fixture.write("/f", b"");
    let reader = fixture.open(Api::Inotify);
    fixture.watch_from(&reader, 1, "/f", IN_MODIFY, Some(MountId(7)));
    fixture.write_as(&fixture.on_mount(7), "/f", b"x");
    assert!(fixture.read(&reader).is_empty());
    for caller in [fixture.on_mount(8), Caller::root()] {
        fixture.write_as(&caller, "/f", b"x");
        assert_eq!(masks(&fixture.read(&reader)), [(1, IN_MODIFY)]);
    }
    // The kernel has sent IN_IGNORED, and the watch is gone without a further event.
    fixture.branch.unlink(&fixture.on_mount(7), "/f").unwrap();
    assert!(fixture.read(&reader).is_empty());
    assert_eq!(fixture.service.watches(), (0, 0));
}

#[test]
fn inotify_masks_are_replaced_or_added_to_and_oneshot_ends_the_watch() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/d", IN_DELETE);
    fixture.watch(&reader, 1, "/d", IN_CREATE | IN_MASK_ADD);
    fixture.create("/d/f");
    fixture.unlink("/d/f");
    assert_eq!(
        masks(&fixture.read(&reader)),
        [(1, IN_CREATE), (1, IN_DELETE)]
    );
    fixture.watch(&reader, 1, "/d", IN_CREATE | IN_ONESHOT);
    fixture.mkdir("/d/s");
    fixture.mkdir("/d/t");
    assert_eq!(
        masks(&fixture.read(&reader)),
        [(1, IN_CREATE | IN_ISDIR), (1, IN_IGNORED)]
    );
    assert_eq!(fixture.service.watches(), (0, 0));
}

#[test]
fn opening_and_reading_are_told_only_while_somebody_asks() {
    use agentfs_core::event::EventSink as _;
    let fixture = Fixture::new();
    fixture.create("/f");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/f", IN_MODIFY);
    assert!(!fixture.service.wants_activity());
    fixture.watch(&reader, 1, "/f", IN_MODIFY | super::ACTIVITY);
    assert!(fixture.service.wants_activity());
    fixture.create("/f");
    assert_eq!(fixture.read(&reader).len(), 2, "open and close");
    fixture.service.unwatch(&reader.queue, WatchId(1)).unwrap();
    assert!(!fixture.service.wants_activity());
}

fn tree_of(paths: &[&str]) -> (Fixture, Reader) {
    let fixture = Fixture::new();
    for dir in ["/a", "/a/b", "/a/bc", "/x"] {
        fixture.mkdir(dir);
    }
    let reader = fixture.open(Api::Native);
    fixture.watch_trees(&reader, 1, paths, 0);
    (fixture, reader)
}

#[test]
fn a_tree_holds_its_top_and_what_is_below_but_no_neighbour() {
    let (fixture, reader) = tree_of(&["/a/b"]);
    fixture.create("/a/b/f");
    fixture.create("/a/bc/f");
    fixture.create("/a/f");
    fixture
        .branch
        .chmod(&fixture.caller, "/a/b", 0o700)
        .unwrap();
    assert_eq!(
        stories(&fixture.read(&reader)),
        ["created /a/b/f", "modified /a/b"]
    );
}

#[test]
fn a_rename_is_told_once_to_a_tree_that_holds_either_name() {
    let (fixture, reader) = tree_of(&["/a"]);
    fixture.create("/x/f");
    fixture.rename("/x/f", "/a/f");
    fixture.rename("/a/f", "/a/b/f");
    fixture.rename("/a/b/f", "/x/f");
    fixture.rename("/x/f", "/x/g");
    assert_eq!(
        stories(&fixture.read(&reader)),
        [
            "renamed /x/f /a/f",
            "renamed /a/f /a/b/f",
            "renamed /a/b/f /x/f"
        ]
    );
}

#[test]
fn the_root_tree_hears_everything_and_new_branches_by_name() {
    let (fixture, reader) = tree_of(&["/"]);
    fixture.create("/f");
    fixture.branch.chmod(&fixture.caller, "/", 0o700).unwrap();
    fixture
        .core
        .snapshot_create(&fixture.caller, fixture.branch.id(), "tag")
        .unwrap();
    assert_eq!(
        stories(&fixture.read(&reader)),
        ["created /f", "modified /", "snapshot_created tag"]
    );
}

#[test]
fn a_tree_may_be_deeper_than_any_directory_there_is() {
    let (fixture, reader) = tree_of(&["/not/yet/here"]);
    fixture.mkdir("/not");
    fixture.mkdir("/not/yet");
    fixture.mkdir("/not/yet/here");
    fixture.create("/not/yet/here/f");
    assert_eq!(
        stories(&fixture.read(&reader)),
        ["created /not/yet/here", "created /not/yet/here/f"]
    );
}

#[test]
fn a_queue_takes_only_watches_of_its_api() {
    let fixture = Fixture::new();
    let reader = fixture.open(Api::Native);
    let interest = agentfs_engine::service::NodeInterest {
        mask: IN_CREATE,
        mount: None,
        after: fixture.branch.last_seq(),
    };
    let node = fixture.node("/");
    let refused = fixture
        .service
        .watch_node(&reader.queue, WatchId(1), node, interest);
    assert!(matches!(refused, Err(WatchError::OtherApi(Api::Native))));
    let unknown = fixture.service.unwatch(&reader.queue, WatchId(1));
    assert!(matches!(unknown, Err(WatchError::NoWatch(WatchId(1)))));
}

#[test]
fn a_restore_is_told_as_the_difference_with_the_close_that_content_ends_with() {
    let fixture = Fixture::new();
    fixture.write("/f", b"one");
    let snapshot = fixture
        .core
        .snapshot_create(&fixture.caller, fixture.branch.id(), "")
        .unwrap();
    fixture.write("/f", b"two");
    fixture.create("/g");
    let reader = fixture.open(Api::Inotify);
    fixture.watch(&reader, 1, "/", IN_ALL_EVENTS);
    fixture
        .core
        .restore(&fixture.caller, fixture.branch.id(), snapshot)
        .unwrap();
    let heard = fixture.read(&reader);
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
