//! Checks the subscription of the client library against real daemons.

use std::os::fd::AsFd as _;
use std::time::Duration;

use agentfs_client::{Deadline, EventKind, Subscription, SubscriptionError, SubscriptionOptions};
use agentfs_proto::message::Ping;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::DaemonProcess;
use agentfs_testkit::files::{mkdir, rename, unlink, write};

fn options(daemon: &DaemonProcess) -> SubscriptionOptions {
    SubscriptionOptions::new().socket(daemon.socket())
}

/// Returns whether the descriptor is readable within `wait`.
fn is_readable(subscription: &Subscription, wait: Duration) -> bool {
    let wait = Timespec::try_from(wait).unwrap();
    let mut fds = [PollFd::new(subscription, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&wait))).unwrap() > 0
}

#[test]
fn it_is_an_iterator_of_every_change_in_the_order_of_the_commits() {
    let daemon = DaemonProcess::start();
    let subscription = options(&daemon).open().unwrap();
    let mut actor = daemon.client();
    mkdir(&mut actor, "/d").unwrap();
    write(&mut actor, "/d/f", b"text").unwrap();
    rename(&mut actor, "/d/f", "/g").unwrap();
    unlink(&mut actor, "/g").unwrap();
    let events: Vec<_> = subscription.take(5).map(Result::unwrap).collect();
    let kinds: Vec<_> = events
        .iter()
        .map(|it| (it.kind.clone(), it.path.to_str().unwrap()))
        .collect();
    let renamed = EventKind::Renamed { to: "/g".into() };
    let expected = [
        (EventKind::Created, "/d"),
        (EventKind::Created, "/d/f"),
        (EventKind::Modified, "/d/f"),
        (renamed, "/d/f"),
        (EventKind::Removed, "/g"),
    ];
    assert_eq!(kinds, expected);
    assert!(events[0].is_directory && !events[1].is_directory);
    assert!(events.windows(2).all(|it| it[0].sequence < it[1].sequence));
    assert!(events.iter().all(|it| it.time_ns > 0 && it.node > 0));
}

#[test]
fn its_descriptor_is_readable_exactly_while_there_is_something_to_read() {
    let daemon = DaemonProcess::start();
    let mut subscription = options(&daemon).open().unwrap();
    let mut actor = daemon.client();
    assert_eq!(subscription.try_next().unwrap(), None);
    for round in 0..100 {
        assert!(!is_readable(&subscription, Duration::ZERO), "round {round}");
        mkdir(&mut actor, &format!("/d{round}")).unwrap();
        assert!(is_readable(&subscription, Duration::from_secs(60)));
        let event = subscription.try_next().unwrap().unwrap();
        assert_eq!(event.path.to_str(), Some(&*format!("/d{round}")));
        assert_eq!(subscription.try_next().unwrap(), None);
    }
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before_an_event() {
    let daemon = DaemonProcess::start();
    let mut subscription = options(&daemon).open().unwrap();
    let at_once = Deadline::after(Duration::ZERO);
    assert_eq!(subscription.next_within(at_once).unwrap(), None);
    mkdir(&mut daemon.client(), "/d").unwrap();
    assert!(subscription.next_within(at_once).unwrap().is_some());
}

#[test]
fn a_burst_beyond_the_ring_is_refilled_and_heard_whole() {
    let daemon = DaemonProcess::start();
    let mut subscription = options(&daemon).ring_capacity(4096).open().unwrap();
    let mut actor = daemon.client();
    let count = 3000;
    for number in 0..count {
        mkdir(&mut actor, &format!("/d{number}")).unwrap();
    }
    for number in 0..count {
        let event = subscription.next_within(soon()).unwrap().unwrap();
        assert_eq!(event.path.to_str(), Some(&*format!("/d{number}")));
        assert!(!event.is_healed);
    }
}

#[test]
fn several_paths_are_heard_through_one_queue() {
    let daemon = DaemonProcess::start();
    let mut actor = daemon.client();
    for path in ["/a", "/b", "/c"] {
        mkdir(&mut actor, path).unwrap();
    }
    let mut subscription = options(&daemon).path("/a/").and_path("/c/").open().unwrap();
    for path in ["/a/1", "/b/2", "/c/3"] {
        mkdir(&mut actor, path).unwrap();
    }
    for path in ["/a/1", "/c/3"] {
        let event = subscription.next_within(soon()).unwrap().unwrap();
        assert_eq!(event.path.to_str(), Some(path));
    }
    assert_eq!(subscription.try_next().unwrap(), None);
}

#[test]
fn what_a_daemon_published_before_its_end_is_read_and_then_the_end_is_said() {
    let daemon = DaemonProcess::start();
    let mut subscription = options(&daemon).open().unwrap();
    mkdir(&mut daemon.client(), "/last").unwrap();
    let _directory = daemon.kill();
    let event = subscription.next_within(soon()).unwrap().unwrap();
    assert_eq!(event.path.to_str(), Some("/last"));
    for _ in 0..2 {
        let end = subscription.next_within(soon());
        assert!(matches!(end, Err(SubscriptionError::DaemonGone)), "{end:?}");
        let end = subscription.wait(soon());
        assert!(matches!(end, Err(SubscriptionError::DaemonGone)), "{end:?}");
    }
    let resumed = subscription.resume(Deadline::after(Duration::ZERO));
    assert!(
        matches!(resumed, Err(SubscriptionError::DaemonGone)),
        "{resumed:?}"
    );
    assert_eq!(subscription.count(), 1, "an iterator ends after its error");
}

#[test]
fn it_goes_on_with_the_next_daemon_and_says_so() {
    let daemon = DaemonProcess::start();
    let mut subscription = options(&daemon)
        .resume_within(Duration::from_secs(60))
        .open()
        .unwrap();
    let before = subscription.as_fd().try_clone_to_owned().unwrap();
    let directory = daemon.kill();
    let waiting = std::thread::spawn(move || {
        let event = subscription.next_within(soon()).unwrap().unwrap();
        (subscription, event)
    });
    let daemon = DaemonProcess::start_in(directory, &[]);
    let (mut subscription, event) = waiting.join().unwrap();
    assert_eq!(event.kind, EventKind::Resumed);
    assert!(event.path.as_os_str().is_empty());
    mkdir(&mut daemon.client(), "/after").unwrap();
    let event = subscription.next_within(soon()).unwrap().unwrap();
    assert_eq!(event.path.to_str(), Some("/after"));
    drop(before);
}

#[test]
fn records_are_borrowed_in_the_ring_by_a_program_that_wants_no_copies() {
    let daemon = DaemonProcess::start();
    let mut subscription = options(&daemon).open().unwrap();
    let mut actor = daemon.client();
    mkdir(&mut actor, "/a").unwrap();
    mkdir(&mut actor, "/b").unwrap();
    let mut paths = Vec::new();
    while paths.len() < 2 {
        assert!(subscription.wait(soon()).unwrap());
        subscription
            .drain(|record| paths.push(record.path().to_vec()))
            .unwrap();
    }
    assert_eq!(paths, [b"/a", b"/b"]);
    assert!(!subscription.wait(Deadline::after(Duration::ZERO)).unwrap());
}

#[test]
fn a_branch_that_is_not_there_is_refused() {
    let daemon = DaemonProcess::start();
    let refused = options(&daemon).branch("nowhere").open().unwrap_err();
    assert!(
        matches!(refused, SubscriptionError::Connect(_)),
        "{refused}"
    );
    assert!(refused.to_string().contains("nowhere"), "{refused}");
    let mut client = daemon.client();
    assert_eq!(client.call(Ping { nonce: 1 }, soon()).unwrap().value, 1);
}
