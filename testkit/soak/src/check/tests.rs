use super::*;

fn change(seq: u64, kind: &str, path: &str) -> LoggedChange {
    LoggedChange {
        seq,
        kind: kind.to_owned(),
        marks: String::new(),
        path: path.to_owned(),
        to: String::new(),
    }
}

fn healed(seq: u64, kind: &str, path: &str) -> LoggedChange {
    LoggedChange {
        marks: HEALED.to_string(),
        ..change(seq, kind, path)
    }
}

fn event(mask: u32, name: &str) -> InotifyEvent {
    InotifyEvent {
        dir: "d0".to_owned(),
        mask,
        name: name.to_owned(),
    }
}

fn truth() -> Vec<LoggedChange> {
    vec![
        change(1, "created", "/d0/a"),
        change(2, "modified", "/d0/a"),
        change(3, "modified", "/d0/a"),
        change(4, "created", "/d0/b"),
        change(5, "removed", "/d0/a"),
        change(6, "created", "/d0/end"),
    ]
}

#[test]
fn all_that_is_told_is_accounted_for() {
    let account = native(&truth(), &truth(), Scope::Whole);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!(account.delivered, 6);
}

#[test]
fn repeated_modification_is_coalesced_and_nothing_else_is() {
    let mut heard = truth();
    heard.remove(2);
    let account = native(&truth(), &heard, Scope::Whole);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.delivered, account.coalesced), (5, 1));
    for missing in [0, 3, 4, 5] {
        let mut heard = truth();
        heard.remove(missing);
        let account = native(&truth(), &heard, Scope::Whole);
        assert_eq!(account.unaccounted, 1, "without {missing}: {account:?}");
    }
}

#[test]
fn difference_accounts_for_what_it_covers_if_it_is_right() {
    let right = vec![
        change(1, "created", "/d0/a"),
        healed(5, "removed", "/d0/a"),
        healed(5, "created", "/d0/b"),
        change(6, "created", "/d0/end"),
    ];
    let account = native(&truth(), &right, Scope::Whole);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.delivered, account.healed), (2, 4));
    let mut wrong = right;
    wrong.remove(2);
    assert!(!native(&truth(), &wrong, Scope::Whole).is_clean());
}

#[test]
fn difference_must_name_what_was_written() {
    let truth = vec![
        change(1, "created", "/d0/a"),
        change(2, "modified", "/d0/a"),
        change(3, "created", "/d0/b"),
        change(4, "created", "/d0/end"),
    ];
    let heard = vec![
        change(1, "created", "/d0/a"),
        healed(3, "created", "/d0/b"),
        change(4, "created", "/d0/end"),
    ];
    assert!(!native(&truth, &heard, Scope::Whole).is_clean());
}

#[test]
fn overflow_accounts_for_what_is_missing_before_the_next_event() {
    let heard = vec![
        change(1, "created", "/d0/a"),
        change(0, "overflow", ""),
        change(6, "created", "/d0/end"),
    ];
    let account = native(&truth(), &heard, Scope::Whole);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.delivered, account.overflowed), (2, 4));
}

#[test]
fn what_was_never_committed_or_comes_twice_is_found() {
    let mut phantom = truth();
    phantom.insert(5, change(9, "removed", "/d0/b"));
    assert!(!native(&truth(), &phantom, Scope::Whole).is_clean());
    let mut twice = truth();
    twice.insert(1, change(1, "created", "/d0/a"));
    assert!(!native(&truth(), &twice, Scope::Whole).is_clean());
}

#[test]
fn killed_daemon_takes_only_the_last_changes_with_it() {
    let account = native(&truth(), &truth()[..4], Scope::UntilKilled);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.delivered, account.died), (4, 2));
    let gap = [&truth()[..3], &truth()[4..]].concat();
    assert_eq!(native(&truth(), &gap, Scope::UntilKilled).unaccounted, 1);
    let late = native(&truth(), &truth()[2..5], Scope::Between);
    assert!(late.is_clean(), "{late:?}");
    assert_eq!(late.delivered, 3);
}

#[test]
fn inotify_events_come_in_order_and_repeats_may_be_missing() {
    let all = [
        event(0x100, "a"),
        event(0x2, "a"),
        event(0x100, "b"),
        event(0x200, "a"),
        event(0x100, "end"),
    ];
    let account = inotify(&truth(), &all, Scope::Whole);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.delivered, account.coalesced), (5, 1));
    for missing in 0..all.len() {
        let mut heard = all.to_vec();
        heard.remove(missing);
        let account = inotify(&truth(), &heard, Scope::Whole);
        assert!(account.unaccounted > 0, "without {missing}: {account:?}");
    }
    let mut phantom = all.to_vec();
    phantom.push(event(0x200, "b"));
    assert!(!inotify(&truth(), &phantom, Scope::Whole).is_clean());
    let cut = inotify(&truth(), &all[..2], Scope::UntilKilled);
    assert!(cut.is_clean(), "{cut:?}");
    assert_eq!(cut.died, 3);
}

#[test]
fn an_inotify_program_may_be_told_a_difference_that_says_enough() {
    let after: Vec<LoggedChange> = (0..30)
        .map(|it| change(10 + it, "created", &format!("/d0/late{it}")))
        .collect();
    let mut truth = vec![change(1, "created", "/d0/stays")];
    for _ in 0..40 {
        truth.push(change(2, "created", "/d0/goes"));
        truth.push(change(3, "modified", "/d0/old"));
        truth.push(change(4, "removed", "/d0/goes"));
    }
    truth.extend(after);
    let late: Vec<InotifyEvent> = (0..30)
        .map(|it| event(0x100, &format!("late{it}")))
        .collect();
    let heard = |difference: &[InotifyEvent]| [difference, &late].concat();
    let said = [event(0x2, "old"), event(0x100, "stays")];
    let account = inotify(&truth, &heard(&said), Scope::Whole);
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.healed, account.delivered), (121, 30));
    assert!(!inotify(&truth, &heard(&said[..1]), Scope::Whole).is_clean());
    assert!(!inotify(&truth, &heard(&said[1..]), Scope::Whole).is_clean());
}
