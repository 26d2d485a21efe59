//! What is taken of the lower directory for a frozen branch, what is left out, and when it is looked at
//! again.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use agentfs_core::{
    ApplyError, ApplyMode, CaseSensitivity, Freezing, FsConfig, FsCore, Globs, SetAttr,
};

use crate::frozen::{changes, config, frozen};
use crate::support::{World, get, names, put};

#[test]
fn what_the_branch_has_kept_is_not_what_the_host_has_since() {
    let host = tempfile::tempdir().unwrap();
    let below = |name: &str| host.path().join(name);
    fs::create_dir(below("out")).unwrap();
    for name in ["edited", "removed", "out/small"] {
        fs::write(below(name), "old").unwrap();
    }
    fs::write(below("out/large"), vec![b'o'; 2 << 20]).unwrap();
    let w = World::over(host.path());
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    for path in ["/edited", "/removed", "/out/small", "/out/large"] {
        w.b.setattr(&w.root, path, true, &set).unwrap();
    }
    fs::write(below("edited"), "new").unwrap();
    fs::remove_file(below("removed")).unwrap();
    assert_eq!(get(&w.b, "/edited"), "old", "its content was kept");
    let freezing = Freezing {
        cancelled: &AtomicBool::new(false),
        exclude: &Globs::new(["out/"]).unwrap(),
    };
    let made =
        w.fs.branch_create_frozen(&w.root, FsCore::MAIN, "b", freezing);
    let b = w.fs.branch(made.unwrap()).unwrap();
    // What the branch has changed is held also where nothing is taken.
    for name in ["out/small", "out/large"] {
        fs::write(below(name), "new").unwrap();
    }
    for path in ["/edited", "/removed", "/out/small"] {
        assert_eq!(get(&b, path), "old", "{path}");
    }
    assert_eq!(get(&b, "/out/large").len(), 2 << 20);
}

#[test]
fn names_that_are_the_same_here_and_not_on_the_host_are_taken_once() {
    let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["Name", "name", "other"] {
        fs::write(host.path().join(name), name).unwrap();
    }
    let config = FsConfig {
        case_sensitivity: CaseSensitivity::InsensitivePreserving,
        ..config(host.path(), Some(store.path()))
    };
    let w = World::with(config.clone());
    let one = frozen(&w.fs, FsCore::MAIN, "one");
    assert_eq!(names(&one, "/"), ["Name", "other"]);
    assert_eq!(get(&one, "/name"), "Name");
    drop((one, w));
    let w = World::with(config);
    let one = w.fs.branch_named("one").expect("the store can be read");
    assert_eq!(get(&w.fs.branch(one).unwrap(), "/NAME"), "Name");
}

#[test]
fn what_is_left_out_is_neither_shown_nor_removed() {
    let host = tempfile::tempdir().unwrap();
    let below = |name: &str| host.path().join(name);
    let text = |name: &str| fs::read_to_string(below(name)).unwrap();
    fs::create_dir_all(below("src/target")).unwrap();
    fs::create_dir(below("target")).unwrap();
    for name in ["src/f", "src/target/out", "target/out", "all.log", "f"] {
        fs::write(below(name), "of the host").unwrap();
    }
    let w = World::over(host.path());
    let exclude = Globs::new(["target/", "*.log"]).unwrap();
    let never = AtomicBool::new(false);
    let freezing = Freezing {
        cancelled: &never,
        exclude: &exclude,
    };
    let full =
        w.fs.snapshot_create_full(&w.root, FsCore::MAIN, "full", freezing);
    let made =
        w.fs.branch_create_frozen(&w.root, FsCore::MAIN, "b", freezing);
    let b = w.fs.branch(made.unwrap()).unwrap();
    let of_full =
        w.fs.branch_create_from_snapshot(&w.root, full.unwrap(), "of full");
    let of_full = w.fs.branch(of_full.unwrap()).unwrap();
    for b in [&b, &of_full] {
        assert_eq!(
            (names(b, "/"), names(b, "/src")),
            (vec!["f".into(), "src".into()], vec!["f".into()])
        );
        assert_eq!(changes(b), 0);
        assert_eq!(b.apply(ApplyMode::Refuse).unwrap().actions, []);
    }
    b.mkdir(&w.root, "/target", 0o755).unwrap();
    put(&b, "/target/own", "own");
    put(&b, "/f", "changed");
    assert_eq!(changes(&b), 3);
    b.apply(ApplyMode::Refuse).unwrap();
    for name in ["src/target/out", "target/out", "all.log"] {
        assert_eq!(text(name), "of the host", "{name}");
    }
    assert_eq!((&*text("target/own"), &*text("f")), ("own", "changed"));

    // What the branch never saw stays, also where it removes what is around it.
    b.unlink(&w.root, "/src/f").unwrap();
    b.rmdir(&w.root, "/src").unwrap();
    put(&b, "/all.log", "own");
    let Err(ApplyError::Conflicts(paths)) = b.apply(ApplyMode::Refuse) else {
        panic!("the host has a file of this name");
    };
    assert!(paths.contains(&"all.log".into()), "{paths:?}");
    b.unlink(&w.root, "/all.log").unwrap();
    b.apply(ApplyMode::Force).unwrap();
    assert_eq!(text("src/target/out"), "of the host");
    assert!(!below("src/f").exists());

    // Without the patterns, everything is taken.
    let whole = frozen(&w.fs, FsCore::MAIN, "whole");
    assert_eq!(get(&whole, "/target/out"), "of the host");
    assert_eq!(get(&whole, "/all.log"), "of the host");
}

#[test]
fn nothing_is_looked_at_again_where_everything_is_reported() {
    let (host, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let below = |name: &str| host.path().join(name);
    fs::write(below("f"), "old").unwrap();
    let w = World::over(host.path());
    let announced = w.fs.announced().unwrap();
    announced.add(Path::new(""));
    announced.set_whole(true);
    announced.set_waiter(|| true);
    let is_old = |name: &str| get(&frozen(&w.fs, FsCore::MAIN, name), "/f") == "old";
    assert!(is_old("first"));
    let looked = w.fs.freeze_progress();
    assert_eq!((looked.files, looked.bytes), (1, 3));
    fs::write(below("f"), "new").unwrap();
    assert!(is_old("nothing was reported"));
    assert_eq!(w.fs.freeze_progress(), looked);
    announced.report();
    assert!(!is_old("something was reported"));

    let is_looked_at = |name: &str, again: &str| {
        let before = w.fs.freeze_progress();
        let _frozen = frozen(&w.fs, FsCore::MAIN, name);
        assert_ne!(w.fs.freeze_progress(), before, "{again}");
    };
    let exclude = Globs::new(["g"]).unwrap();
    let never = AtomicBool::new(false);
    let freezing = Freezing {
        cancelled: &never,
        exclude: &exclude,
    };
    let made =
        w.fs.branch_create_frozen(&w.root, FsCore::MAIN, "without g", freezing);
    made.unwrap();
    is_looked_at("with g", "other patterns");
    announced.set_whole(false);
    is_looked_at("gap", "a directory is not watched");
    announced.set_whole(true);
    announced.set_waiter(|| false);
    is_looked_at("late", "what is on its way is not known");
    announced.set_waiter(|| true);
    fs::hard_link(below("f"), outside.path().join("f")).unwrap();
    is_looked_at("before", "nothing is known of before");
    is_looked_at("linked", "the file can be changed by its other name");
}
