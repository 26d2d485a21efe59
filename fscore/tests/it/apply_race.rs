//! Tests applying while others change the host, too: other branches, other processes, people.

use std::fs::{self, FileTimes};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Duration;

use agentfs_core::{
    Action, Applied, ApplyError, ApplyLock, ApplyMode, Branch, LockError, RenameFlags, SetTime,
};

use crate::support::{World, get, put};

const PATIENCE: Duration = Duration::from_secs(60);

fn branch_of(w: &World, name: &str) -> Branch {
    let id = w.fs.branch_create_from_current(&w.root, w.b.id(), name);
    w.fs.branch(id.unwrap()).unwrap()
}

/// Returns the names on the host that no branch made.
fn left_over(host: &Path) -> Vec<String> {
    let names = fs::read_dir(host).unwrap();
    let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
    names.filter(|it| it.contains("agentfs")).collect()
}

/// Changes `both` and 20 files of its own in each branch, and applies both branches at the same
/// moment.
fn apply_together(host: &Path, one: &Branch, other: &Branch, round: usize) {
    for (name, branch) in [("one", one), ("other", other)] {
        put(branch, "/both", &format!("{name} {round}"));
        for number in 0..20 {
            put(branch, &format!("/{name}{number}"), &round.to_string());
        }
    }
    let start = Barrier::new(2);
    let apply = |branch: &Branch| {
        start.wait();
        branch.apply(ApplyMode::Refuse)
    };
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| apply(one));
        let second = apply(other);
        (first.join().unwrap(), second)
    });
    let (winner, loser, refused) = match (first, second) {
        (Ok(_), Err(refused)) => ("one", other, refused),
        (Err(refused), Ok(_)) => ("other", one, refused),
        both => panic!("exactly one is applied, and not {both:?}"),
    };
    assert_eq!(refused, ApplyError::Conflicts(vec!["both".into()]));
    let both = fs::read_to_string(host.join("both")).unwrap();
    assert_eq!(both, format!("{winner} {round}"));
    // What was refused is still in the branch, and is applied when that is forced.
    let mine = get(loser, "/both");
    assert_ne!(mine, both);
    loser.apply(ApplyMode::Force).unwrap();
    assert_eq!(fs::read_to_string(host.join("both")).unwrap(), mine);
    for (name, number) in [("one", 0), ("other", 19)] {
        let text = fs::read_to_string(host.join(format!("{name}{number}"))).unwrap();
        assert_eq!(text, round.to_string());
    }
    assert_eq!(left_over(host), Vec::<String>::new());
}

#[test]
fn of_two_branches_that_changed_one_file_one_is_applied() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("both"), "old").unwrap();
    let w = World::over(host.path());
    let other = branch_of(&w, "other");
    for round in 0..20 {
        apply_together(host.path(), &w.b, &other, round);
    }
}

#[test]
fn so_it_is_of_branches_of_two_daemons() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("both"), "old").unwrap();
    let (one, other) = (World::over(host.path()), World::over(host.path()));
    for round in 0..20 {
        apply_together(host.path(), &one.b, &other.b, round);
    }
}

/// The host saves a file as an editor does, or in place, at any moment of an apply. Whatever
/// becomes of the branch's change, the host's last version is there afterwards.
#[test]
fn what_the_host_writes_meanwhile_is_never_overwritten() {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    fs::write(at("f"), "old").unwrap();
    let w = World::over(host.path());
    let mut refused = 0;
    for round in 0..60 {
        for number in 0..round % 6 {
            w.put(&format!("/a{number}"), &round.to_string());
        }
        w.put("/f", &format!("branch {round}"));
        let saved = format!("host {round}");
        let start = Barrier::new(2);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                if round % 2 == 0 {
                    fs::write(at("saved"), &saved).unwrap();
                    fs::rename(at("saved"), at("f")).unwrap();
                } else {
                    fs::write(at("f"), &saved).unwrap();
                }
            });
            start.wait();
            w.b.apply(ApplyMode::Refuse)
        });
        match result {
            Ok(_) => {}
            Err(ApplyError::Conflicts(paths)) => {
                assert_eq!(paths, [Path::new("f")]);
                assert_eq!(
                    w.get("/f"),
                    format!("branch {round}"),
                    "it is not lost either"
                );
                refused += 1;
                w.b.apply(ApplyMode::Force).unwrap();
                fs::write(at("f"), &saved).unwrap();
            }
            Err(other) => panic!("{other}"),
        }
        let now = fs::read_to_string(at("f")).unwrap();
        assert_eq!(now, saved, "in round {round}");
        assert_eq!(left_over(host.path()), Vec::<String>::new());
    }
    assert!(refused > 0, "the two never met");
}

#[test]
fn a_change_that_hides_its_time_is_still_a_conflict() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path().join("f");
    fs::write(&path, "old").unwrap();
    let w = World::over(host.path());
    w.put("/f", "branch");
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, "new").unwrap();
    let times = FileTimes::new().set_modified(before.modified().unwrap());
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(times)
        .unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!(
        (before.len(), before.mtime_nsec()),
        (after.len(), after.mtime_nsec())
    );
    let refused = w.b.apply(ApplyMode::Refuse);
    assert_eq!(refused, Err(ApplyError::Conflicts(vec!["f".into()])));
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[test]
fn what_the_host_has_as_the_branch_wants_it_is_no_conflict() {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    fs::write(at("f"), "old").unwrap();
    let w = World::over(host.path());
    w.put("/f", "same");
    w.put("/new", "same, too");
    w.put("/mine", "mine");
    fs::write(at("f"), "same").unwrap();
    fs::write(at("new"), "same, too").unwrap();
    let inodes = || ["f", "new"].map(|name| fs::metadata(at(name)).unwrap().ino());
    let before = inodes();
    let Applied { actions, .. } = w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(actions, [Action::Write("mine".into())]);
    assert_eq!(inodes(), before);
    assert_eq!(
        (w.get("/f"), w.get("/new")),
        ("same".into(), "same, too".into())
    );
    assert!(w.b.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
}

/// git touches an object that it finds in its store, and the host may do so, too.
#[test]
fn a_file_that_the_branch_only_touched_is_the_host_s() {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    fs::write(at("f"), "old").unwrap();
    fs::write(at("g"), "old").unwrap();
    let w = World::over(host.path());
    let moment = Some(SetTime::To(7_000_000_000));
    for path in ["/f", "/g"] {
        w.b.utimens(&w.root, path, true, moment, moment).unwrap();
    }
    fs::write(at("f"), "host").unwrap();
    let applied = w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(applied.actions, [Action::SetAttributes("g".into())]);
    assert_eq!(fs::read_to_string(at("f")).unwrap(), "host");
    assert_eq!(fs::metadata(at("g")).unwrap().mtime(), 7);
    assert_eq!(w.get("/f"), "host");
}

/// Links and renames change a file's time of change on the host.
#[test]
fn a_branch_is_in_no_conflict_with_what_it_applied_itself() {
    let host = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(host.path().join(name), name).unwrap();
    }
    let w = World::over(host.path());
    let rename = |from, to| w.b.rename(&w.root, from, to, RenameFlags::REPLACE).unwrap();
    w.b.link(&w.root, "/a", "/linked").unwrap();
    rename("/b", "/moved");
    rename("/c", "/b");
    w.put("/a", "changed");
    w.put("/moved", "changed, too");
    w.b.apply(ApplyMode::Refuse).unwrap();
    w.b.unlink(&w.root, "/a").unwrap();
    w.put("/linked", "again");
    rename("/b", "/c");
    w.b.apply(ApplyMode::Refuse).unwrap();
    let read = |name: &str| fs::read_to_string(host.path().join(name)).unwrap();
    assert_eq!(
        ["linked", "moved", "c"].map(read),
        ["again", "changed, too", "c"]
    );
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 3);
}

#[test]
fn names_that_take_each_others_place_arrive() {
    let host = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(host.path().join(name), name).unwrap();
    }
    let w = World::over(host.path());
    w.b.rename(&w.root, "/a", "/b", RenameFlags::EXCHANGE)
        .unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    let read = |name: &str| fs::read_to_string(host.path().join(name)).unwrap();
    assert_eq!(["a", "b"].map(read), ["b", "a"]);
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 2);
}

#[test]
fn a_file_that_an_editor_saved_by_renaming_is_replaced_in_one_step() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("f"), "old").unwrap();
    let w = World::over(host.path());
    let save = |text: &str| {
        w.put("/saved", text);
        w.b.rename(&w.root, "/saved", "/f", RenameFlags::REPLACE)
            .unwrap();
    };
    save("new");
    let plan = w.b.apply(ApplyMode::DryRun).unwrap();
    assert_eq!(plan.actions, [Action::Write("f".into())]);
    w.b.apply(ApplyMode::Refuse).unwrap();
    let path = host.path().join("f");
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    save("newer");
    fs::write(&path, "host").unwrap();
    let refused = w.b.apply(ApplyMode::Refuse);
    assert_eq!(refused, Err(ApplyError::Conflicts(vec!["f".into()])));
    assert_eq!(fs::read_to_string(&path).unwrap(), "host");
    w.b.apply(ApplyMode::Force).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
}

#[test]
fn what_a_rename_replaces_is_what_the_branch_saw() {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    for name in ["a", "b", "c"] {
        fs::write(at(name), name).unwrap();
    }
    let w = World::over(host.path());
    let rename = |from, to| w.b.rename(&w.root, from, to, RenameFlags::REPLACE).unwrap();
    rename("/a", "/b");
    rename("/c", "/new");
    fs::write(at("b"), "theirs").unwrap();
    fs::write(at("new"), "theirs").unwrap();
    let refused = w.b.apply(ApplyMode::Refuse);
    let paths = vec!["b".into(), "new".into()];
    assert_eq!(refused, Err(ApplyError::Conflicts(paths)));
    assert_eq!(fs::read_to_string(at("b")).unwrap(), "theirs");
    w.b.apply(ApplyMode::Force).unwrap();
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    assert_eq!(["b", "new"].map(read), ["a", "c"]);
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 2);
}

#[test]
fn applying_waits_for_another_process_until_it_is_told_not_to() {
    let host = tempfile::tempdir().unwrap();
    let w = World::over(host.path());
    w.put("/f", "branch");
    let never = AtomicBool::new(false);
    let directory = fs::File::open(host.path()).unwrap();
    let theirs = ApplyLock::take(&directory, &never).unwrap();
    let cancelled = AtomicBool::new(true);
    assert_eq!(
        ApplyLock::take(&directory, &cancelled).unwrap_err(),
        LockError::Cancelled
    );
    let ended = w.b.apply_unless(ApplyMode::Refuse, &cancelled);
    assert_eq!(ended, Err(ApplyError::Cancelled));
    assert!(!host.path().join("f").exists());
    let (done, is_done) = channel();
    let other = w.b.clone();
    std::thread::spawn(move || done.send(other.apply(ApplyMode::Refuse)));
    // The apply waits without blocking the users of the branch.
    w.put("/g", "meanwhile");
    drop(theirs);
    is_done.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(host.path().join("f").exists());
}

/// Many programs rely on a directory's time: it never goes back.
#[test]
fn a_directory_that_the_host_changed_later_keeps_its_time() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("d")).unwrap();
    let w = World::over(host.path());
    w.put("/d/mine", "1");
    fs::write(host.path().join("d/theirs"), "2").unwrap();
    let time = || {
        fs::metadata(host.path().join("d"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let theirs = time();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert!(time() >= theirs);
}
