//! Tests the handshake and the limits of a session.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use agentfs_client::{CallError, Client, ConnectError};
use agentfs_daemon::SessionLimits;
use agentfs_proto::message::{
    Code, Counter, Done, Hello, Ping, Reply, Shutdown, Status, Token, VERSION_MAX, VERSION_MIN,
};

use crate::support::daemon_with;
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{assert_answers, connect};

/// Connects without a handshake.
fn silent(socket: &Path) -> Client {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_nonblocking(true).unwrap();
    Client::over(OwnedFd::from(stream))
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Code {
    match answer {
        Err(CallError::Refused(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_greeting_tells_versions_branch_and_limits() {
    let (daemon, _directory) = daemon_with(SessionLimits {
        queues: 7,
        ..SessionLimits::default()
    });
    let (_, welcome) = Client::connect(daemon.socket(), Hello::new("test"), soon()).unwrap();
    assert_eq!(welcome.version, VERSION_MAX);
    assert_eq!(welcome.branch_name, "main");
    assert_eq!(welcome.daemon_pid, std::process::id());
    assert_eq!(welcome.max_queues, 7);
}

#[test]
fn versions_without_overlap_are_refused() {
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let hello = Hello {
        version_min: VERSION_MAX + 1,
        version_max: 9,
        ..Hello::new("from the future")
    };
    match Client::connect(daemon.socket(), hello, soon()) {
        Err(ConnectError::Handshake(error)) => assert_eq!(refusal::<()>(Err(error)), Code::VERSION),
        other => panic!("{other:?}"),
    }
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: 9,
        ..Hello::new("knows more")
    };
    let (_, welcome) = Client::connect(daemon.socket(), hello, soon()).unwrap();
    assert_eq!(welcome.version, VERSION_MAX);
}

#[test]
fn an_unknown_token_is_refused() {
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let hello = Hello {
        token: Some(Token([9; 16])),
        ..Hello::new("test")
    };
    match Client::connect(daemon.socket(), hello, soon()) {
        Err(ConnectError::Handshake(error)) => {
            assert_eq!(refusal::<()>(Err(error)), Code::FORBIDDEN);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_does_not_greet_first_is_shown_out() {
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let mut client = silent(daemon.socket());
    assert_eq!(
        refusal(client.call(Ping { nonce: 1 }, soon())),
        Code::HANDSHAKE
    );
    assert!(matches!(client.receive(soon()), Err(CallError::Closed)));
    let mut client = connect(daemon.socket());
    assert_eq!(
        refusal(client.call(Hello::new("twice"), soon())),
        Code::HANDSHAKE
    );
    assert!(matches!(client.receive(soon()), Err(CallError::Closed)));
}

#[test]
fn who_never_greets_is_shown_out_in_time() {
    let limits = SessionLimits {
        handshake: Duration::from_millis(30),
        ..SessionLimits::default()
    };
    let (daemon, _directory) = daemon_with(limits);
    let mut greeted = connect(daemon.socket());
    let mut silent = silent(daemon.socket());
    assert!(matches!(silent.receive(soon()), Err(CallError::Closed)));
    assert_answers(&mut greeted);
}

#[test]
fn a_session_too_many_is_told_so_and_a_place_is_free_again_later() {
    let (daemon, _directory) = daemon_with(SessionLimits {
        sessions: 2,
        ..SessionLimits::default()
    });
    let mut first = connect(daemon.socket());
    let second = connect(daemon.socket());
    match Client::connect(daemon.socket(), Hello::new("third"), soon()) {
        Err(ConnectError::Handshake(CallError::Refused(error))) => {
            assert_eq!(error.code, Code::LIMIT);
            assert!(
                error.message.contains("--max-sessions"),
                "{}",
                error.message
            );
        }
        // The daemon closes at once: our greeting may come too late.
        Err(ConnectError::Handshake(CallError::Closed)) => {}
        other => panic!("{other:?}"),
    }
    drop(second);
    let sessions = |client: &mut Client| {
        client
            .call(Status { after: 0 }, soon())
            .unwrap()
            .sessions
            .len()
    };
    while sessions(&mut first) > 1 {}
    assert_answers(&mut connect(daemon.socket()));
}

#[test]
fn a_flood_waits_and_is_answered_in_full() {
    let limits = SessionLimits {
        frame_rate: 2000,
        frame_burst: 100,
        ..SessionLimits::default()
    };
    let (daemon, _directory) = daemon_with(limits);
    let mut flooder = connect(daemon.socket());
    let mut other = connect(daemon.socket());
    for nonce in 0..1000 {
        flooder.send(Ping { nonce }.into(), soon()).unwrap();
    }
    assert_answers(&mut other);
    for nonce in 0..1000 {
        let reply = flooder.receive(soon()).unwrap().reply;
        assert_eq!(reply, Done { value: nonce }.into());
    }
    assert!(throttled(&mut other) > 0);
}

/// Returns how often a session had to wait.
fn throttled(client: &mut Client) -> u64 {
    let report = client.call(Status { after: 0 }, soon()).unwrap();
    let mut counters = report.counters.iter();
    counters.find(|it| it.name == "throttled").unwrap().value
}

#[test]
fn as_many_frames_as_are_allowed_at_once_wait_for_nothing() {
    let limits = SessionLimits {
        frame_rate: 1,
        frame_burst: 20,
        ..SessionLimits::default()
    };
    let (daemon, _directory) = daemon_with(limits);
    // The count includes the handshake and the last question.
    let mut client = connect(daemon.socket());
    for _ in 0..18 {
        client.call(Ping { nonce: 7 }, soon()).unwrap();
    }
    assert_eq!(throttled(&mut client), 0);
}

#[test]
fn whoever_reads_no_answers_is_asked_nothing_more_and_costs_nobody_else() {
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let mut stalled = connect(daemon.socket());
    let mut other = connect(daemon.socket());
    let mut sent = 0;
    // The daemon stops reading, so the socket fills up.
    let at_once = agentfs_client::Deadline::after(Duration::from_millis(200));
    loop {
        match stalled.send(Status { after: 0 }.into(), at_once) {
            Ok(_) => sent += 1,
            Err(CallError::Timeout) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_answers(&mut other);
    for _ in 0..sent {
        let answer = stalled.receive(soon()).unwrap();
        assert!(matches!(answer.reply, Reply::StatusReport(_)));
    }
    assert_answers(&mut stalled);
}

#[test]
fn an_embedded_daemon_ends_with_its_owner() {
    let (daemon, directory) = daemon_with(SessionLimits::default());
    let mut client = connect(daemon.socket());
    drop(daemon);
    assert!(matches!(client.receive(soon()), Err(CallError::Closed)));
    assert!(!directory.path().join("control.sock").exists());
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let mut client = connect(daemon.socket());
    client
        .call(
            Shutdown {
                reason: "test".to_owned(),
                discard: false,
            },
            soon(),
        )
        .unwrap();
    daemon.wait().unwrap();
}

#[test]
fn the_status_counts_sessions_and_requests_each_time_anew() {
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let (mut client, _) = Client::connect(daemon.socket(), Hello::new("test"), soon()).unwrap();
    let mut counters = || {
        let report = client.call(Status { after: 0 }, soon()).unwrap();
        assert_eq!(report.pid, std::process::id());
        report.counters
    };
    let value = |all: &[Counter], name: &str| {
        let mut named = all.iter().filter(|it| it.name == name);
        let found = named.next().unwrap();
        assert!(named.next().is_none(), "{name} is there twice");
        found.value
    };
    let (first, second) = (counters(), counters());
    assert_eq!(value(&first, "sessions_opened"), 1);
    assert_eq!(value(&first, "requests"), 2);
    assert_eq!(value(&second, "requests"), 3);
    let names = |all: &[Counter]| all.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
    let grows = |(first, second): (&Counter, &Counter)| first.value <= second.value;
    assert!(first.iter().zip(&second).all(grows));
}
