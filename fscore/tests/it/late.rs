//! Changes below that are reported when the host has changed the same names again.

use std::fs;
use std::path::Path;

use agentfs_core::event::{Change, RenameHow};
use agentfs_core::{Caller, FsCore, LowerChange, RenameFlags};
use rustix::fs::{CWD, RenameFlags as HostFlags, renameat_with};
use tempfile::TempDir;

use crate::support::{Recorder, World, line};

/// A filesystem over a directory of the host that nobody has looked at yet.
fn over(prepare: impl FnOnce(&Path)) -> (TempDir, World) {
    let host = tempfile::tempdir().unwrap();
    prepare(host.path());
    let world = World::over(host.path());
    (host, world)
}

fn created(path: &str, is_dir: bool) -> LowerChange {
    LowerChange::Created {
        path: path.into(),
        is_dir,
    }
}

fn removed(path: &str, is_dir: bool) -> LowerChange {
    LowerChange::Removed {
        path: path.into(),
        is_dir,
    }
}

fn renamed(from: &str, to: &str, is_dir: bool) -> LowerChange {
    LowerChange::Renamed {
        from: from.into(),
        to: to.into(),
        is_dir,
    }
}

/// Returns what the branch main hears of these changes, without the counts of links.
fn heard(world: &World, recorder: &Recorder, changes: &[LowerChange]) -> Vec<String> {
    for change in changes {
        world.fs.lower_changed(change);
    }
    let events = recorder.take();
    let events = events.iter().filter(|it| it.branch == FsCore::MAIN);
    events
        .map(|it| {
            let line = line(&it.change);
            line.trim_end_matches(|it: char| it.is_ascii_digit())
                .to_owned()
        })
        .collect()
}

#[test]
fn a_name_that_moved_twice_moves_twice() {
    for is_looked_at in [false, true] {
        let (host, w) = over(|root| fs::write(root.join("a"), "").unwrap());
        let before = is_looked_at.then(|| w.b.stat(&w.root, "/a").unwrap().node);
        let recorder = w.listen(false);
        fs::rename(host.path().join("a"), host.path().join("b")).unwrap();
        fs::rename(host.path().join("b"), host.path().join("c")).unwrap();
        let changes = [renamed("a", "b", false), renamed("b", "c", false)];
        let expected = ["renamed /a to /b File", "renamed /b to /c File"];
        assert_eq!(heard(&w, &recorder, &changes), expected);
        let after = w.b.stat(&w.root, "/c").unwrap().node;
        assert!(before.is_none_or(|before| before == after));
    }
}

#[test]
fn what_is_gone_from_the_host_is_heard_all_the_same() {
    let (_host, w) = over(|_| ());
    let recorder = w.listen(false);
    let changes = [
        created("d", true),
        created("d/f", false),
        LowerChange::Written("d/f".into()),
        LowerChange::Attributes("d/f".into()),
        renamed("d", "e", true),
        renamed("e/f", "e/g", false),
        removed("e/g", false),
        removed("e", true),
    ];
    let expected = [
        "created /d Directory",
        "created /d/f File",
        "written /d/f File",
        "attributes /d/f File",
        "renamed /d to /e Directory",
        "renamed /e/f to /e/g File",
        "removed /e/g File",
        "removed /e Directory",
    ];
    let heard = heard(&w, &recorder, &changes);
    assert_eq!(heard.len(), expected.len(), "{heard:#?}");
    for (heard, expected) in heard.iter().zip(expected) {
        assert!(heard.starts_with(expected), "{heard} is not {expected}");
    }
}

#[test]
fn a_directory_that_was_switched_is_the_new_one() {
    let (host, w) = over(|root| {
        for dir in ["cur", "new"] {
            fs::create_dir(root.join(dir)).unwrap();
            fs::write(root.join(dir).join("f"), dir).unwrap();
        }
    });
    let node = |path: &str| w.b.stat(&w.root, path).unwrap().node;
    let (new, new_file) = (node("/new"), node("/new/f"));
    node("/cur/f");
    let recorder = w.listen(false);
    let at = |path: &str| host.path().join(path);
    fs::rename(at("cur"), at("old")).unwrap();
    fs::rename(at("new"), at("cur")).unwrap();
    fs::remove_dir_all(at("old")).unwrap();
    let changes = [
        renamed("cur", "old", true),
        renamed("new", "cur", true),
        removed("old/f", false),
        removed("old", true),
    ];
    let expected = [
        "renamed /cur to /old Directory",
        "renamed /new to /cur Directory",
        "removed /old/f File",
        "removed /old Directory",
    ];
    assert_eq!(heard(&w, &recorder, &changes), expected);
    assert_eq!((node("/cur"), node("/cur/f")), (new, new_file));
    assert_eq!(w.get("/cur/f"), "new");
}

/// A program may see what came later before the changes are reported. The later object keeps its
/// node.
#[test]
fn a_later_object_that_was_seen_already_is_not_the_one_that_went() {
    let (host, w) = over(|root| fs::write(root.join("f"), "old").unwrap());
    let node = |path: &str| w.b.stat(&w.root, path).unwrap().node;
    let old = node("/f");
    let recorder = w.listen(false);
    fs::rename(host.path().join("f"), host.path().join("f~")).unwrap();
    fs::write(host.path().join("f"), "new").unwrap();
    let new = node("/f");
    assert_ne!(old, new);
    w.fs.lower_changed(&renamed("f", "f~", false));
    w.fs.lower_changed(&created("f", false));
    let events = recorder.take();
    let nodes: Vec<_> = events
        .iter()
        .filter_map(|it| it.change.object().map(|object| object.id))
        .collect();
    assert_eq!(nodes, [old, new]);
    assert_eq!((node("/f"), node("/f~")), (new, old));
}

#[test]
fn exchanged_names_are_exchanged() {
    let (host, w) = over(|root| {
        fs::write(root.join("a"), "A").unwrap();
        fs::create_dir(root.join("b")).unwrap();
    });
    let node = |path: &str| w.b.stat(&w.root, path).unwrap().node;
    let (a, b) = (node("/a"), node("/b"));
    let recorder = w.listen(false);
    let at = |path: &str| host.path().join(path);
    renameat_with(CWD, at("a"), CWD, at("b"), HostFlags::EXCHANGE).unwrap();
    let change = LowerChange::Exchanged {
        one: "a".into(),
        other: "b".into(),
    };
    w.fs.lower_changed(&change);
    let events = recorder.take();
    let hows = events.iter().filter_map(|it| {
        let Change::Renamed { how, .. } = &it.change else {
            return None;
        };
        Some(*how)
    });
    let hows: Vec<_> = hows.collect();
    let [
        RenameHow::ExchangeFirst(first),
        RenameHow::ExchangeSecond(second),
    ] = hows[..]
    else {
        panic!("{hows:?} is no exchange");
    };
    assert_eq!((first.id, second.id), (b, a));
    assert_eq!((node("/b"), node("/a")), (a, b));
}

/// A branch that has moved a directory shows what happens in it in its own place, also when the host
/// has the directory no more.
#[test]
fn a_branch_hears_of_a_directory_where_the_branch_has_it() {
    let (host, w) = over(|root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/sub/f"), "").unwrap();
    });
    let root = Caller::root();
    w.b.stat(&root, "/dir/sub/f").unwrap();
    w.b.rename(&root, "/dir", "/mine", RenameFlags::REPLACE)
        .unwrap();
    let recorder = w.listen(false);
    fs::remove_dir_all(host.path().join("dir")).unwrap();
    let changes = [removed("dir/sub/f", false), removed("dir/sub", true)];
    let expected = ["removed /mine/sub/f File", "removed /mine/sub Directory"];
    assert_eq!(heard(&w, &recorder, &changes), expected);
    // The name of the directory is no longer shown.
    assert_eq!(heard(&w, &recorder, &[removed("dir", true)]), [""; 0]);
}
