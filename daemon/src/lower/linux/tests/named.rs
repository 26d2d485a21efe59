//! What is emitted for changes that are looked at late, case by case.

use std::fs;
use std::sync::atomic::Ordering;

use agentfs_testkit::churn::Paths;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::World;

#[test]
fn a_name_that_moves_twice_before_it_is_looked_at_moves_twice() {
    let mut world = World::new(|root| fs::write(root.join("a"), "").unwrap());
    fs::rename(world.host("a"), world.host("b")).unwrap();
    fs::rename(world.host("b"), world.host("c")).unwrap();
    let heard = world.is_exact();
    assert_eq!(
        heard,
        [r#"renamed "/a" "/b" Free"#, r#"renamed "/b" "/c" Free"#]
    );
}

#[test]
fn a_name_that_was_made_and_moved_before_it_is_looked_at_is_made_and_moved() {
    let mut world = World::new(|_| ());
    fs::write(world.host("a"), "").unwrap();
    fs::rename(world.host("a"), world.host("b")).unwrap();
    fs::write(world.host("a"), "").unwrap();
    fs::remove_file(world.host("a")).unwrap();
    let heard = world.is_exact();
    let expected = [
        r#"created "/a""#,
        r#"renamed "/a" "/b" Free"#,
        r#"created "/a""#,
        r#"removed "/a""#,
    ];
    assert_eq!(heard, expected);
}

#[test]
fn a_chain_of_directories_moves_with_what_is_in_it() {
    let mut world = World::new(|root| {
        fs::create_dir_all(root.join("a/deep")).unwrap();
        fs::write(root.join("a/deep/f"), "").unwrap();
    });
    fs::rename(world.host("a"), world.host("b")).unwrap();
    fs::write(world.host("b/deep/g"), "").unwrap();
    fs::create_dir(world.host("a")).unwrap();
    fs::rename(world.host("b"), world.host("a/c")).unwrap();
    fs::rename(world.host("a"), world.host("d")).unwrap();
    fs::remove_file(world.host("d/c/deep/f")).unwrap();
    let heard = world.is_exact();
    let expected = [
        r#"renamed "/a" "/b" Free"#,
        r#"created "/b/deep/g""#,
        r#"created "/a""#,
        // The new directory was not watched yet when another one moved there.
        r#"removed "/b""#,
        r#"renamed "/a" "/d" Free"#,
    ];
    assert_eq!(heard[..5], expected);
    assert!(heard.contains(&r#"created "/d/c/deep/g""#.to_owned()));
}

#[test]
fn a_directory_that_is_switched_is_the_new_one() {
    let mut world = World::new(|root| {
        fs::create_dir(root.join("cur")).unwrap();
        fs::write(root.join("cur/1"), "").unwrap();
        fs::create_dir(root.join("new")).unwrap();
        fs::write(root.join("new/2"), "").unwrap();
    });
    fs::rename(world.host("cur"), world.host("old")).unwrap();
    fs::rename(world.host("new"), world.host("cur")).unwrap();
    fs::remove_dir_all(world.host("old")).unwrap();
    let heard = world.is_exact();
    let expected = [
        r#"renamed "/cur" "/old" Free"#,
        r#"renamed "/new" "/cur" Free"#,
        r#"removed "/old/1""#,
        r#"removed "/old""#,
    ];
    assert_eq!(heard, expected);
    fs::write(world.host("cur/3"), "").unwrap();
    assert_eq!(world.is_exact(), [r#"created "/cur/3""#]);
}

#[test]
fn an_exchange_is_no_move_there_and_back() {
    let mut world = World::new(|root| {
        for name in ["a", "b", "c"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        for name in ["a/1", "b/2", "f", "g", "h"] {
            fs::write(root.join(name), "").unwrap();
        }
    });
    let exchange = |one, other| {
        let (one, other) = (world.host(one), world.host(other));
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    };
    exchange("a", "b");
    exchange("f", "g");
    fs::rename(world.host("a"), world.host("c")).unwrap();
    fs::rename(world.host("c"), world.host("a")).unwrap();
    fs::rename(world.host("h"), world.host("i")).unwrap();
    fs::rename(world.host("i"), world.host("h")).unwrap();
    let heard = world.is_exact();
    assert_eq!(heard.len(), 8, "{heard:#?}");
    let how = |at: usize, how: &str| assert!(heard[at].contains(how), "{heard:#?}");
    how(0, r#"renamed "/a" "/b" ExchangeFirst"#);
    how(1, r#"renamed "/b" "/a" ExchangeSecond"#);
    how(2, r#"renamed "/f" "/g" ExchangeFirst"#);
    how(4, r#"renamed "/a" "/c" "#);
    how(5, r#"renamed "/c" "/a" Free"#);
    how(6, r#"renamed "/h" "/i" Free"#);
    how(7, r#"renamed "/i" "/h" Free"#);
}

/// So `agentfs apply DIR` replaces a file: by one that was staged where nobody watches.
#[test]
fn an_exchange_with_a_name_outside_is_told_once_and_not_as_a_removal() {
    let mut world = World::new(|root| fs::write(root.join("f"), "old").unwrap());
    fs::write(world.outside.path().join("staged"), "new").unwrap();
    let staged = world.outside.path().join("staged");
    let flags = RenameFlags::EXCHANGE;
    renameat_with(CWD, &staged, CWD, world.host("f"), flags).unwrap();
    assert_eq!(world.is_exact(), [r#"created "/f""#]);
    assert_eq!(fs::read_to_string(world.host("f")).unwrap(), "new");
    // One that comes in and leaves again is gone.
    fs::rename(&staged, world.host("g")).unwrap();
    fs::rename(world.host("g"), &staged).unwrap();
    let heard = world.is_exact();
    assert_eq!(heard, [r#"created "/g""#, r#"removed "/g""#]);
}

/// A directory leads to what has its name now only when nothing has happened to the name since.
#[test]
fn a_directory_that_was_made_under_a_name_that_was_free_again_is_another_one() {
    let mut world = World::new(|_| ());
    fs::create_dir(world.host("d")).unwrap();
    fs::write(world.host("d/1"), "").unwrap();
    fs::rename(world.host("d"), world.host("e")).unwrap();
    fs::create_dir(world.host("d")).unwrap();
    fs::write(world.host("d/2"), "").unwrap();
    let mut heard = world.is_exact();
    heard[3..].sort();
    let expected = [
        r#"created "/d""#,
        r#"renamed "/d" "/e" Free"#,
        r#"created "/d""#,
        r#"created "/d/2""#,
        r#"created "/e/1""#,
    ];
    assert_eq!(heard, expected);
}

#[test]
fn a_burst_beyond_the_kernels_queue_is_told_as_one_overflow() {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let mut world = World::new(|root| fs::write(root.join("a"), "").unwrap());
    // Each rename is two events.
    for _ in 0..=most / 4 {
        fs::rename(world.host("a"), world.host("b")).unwrap();
        fs::rename(world.host("b"), world.host("a")).unwrap();
    }
    world.task.catch_up();
    assert!(world.has_resynced.swap(false, Ordering::Relaxed));
    // What comes afterwards is heard.
    *world.replay.paths.lock().unwrap() = Paths::of(world.lower.path());
    world.heard();
    fs::rename(world.host("a"), world.host("c")).unwrap();
    assert_eq!(world.is_exact(), [r#"renamed "/a" "/c" Free"#]);
    assert!(!world.has_resynced.load(Ordering::Relaxed));
}
