//! Tests the spans of a session and of a request, around what is logged for them. The subscriber is
//! that of the whole process, so these tests have a program of their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::{Arc, Mutex};

use agentfs_client::{CallError, Client};
use agentfs_daemon::{Config, Daemon};
use agentfs_proto::message::{BranchDiff, BranchToken, Code, Hello};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::private_directory;
use tracing_subscriber::filter::LevelFilter;

/// The lines that were logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Returns the one line with this text.
    #[track_caller]
    fn line(&self, text: &str) -> String {
        let all = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut found = all.lines().filter(|line| line.contains(text));
        let line = found
            .next()
            .unwrap_or_else(|| panic!("no {text:?} in {all}"));
        assert_eq!(found.next(), None, "{text:?} is there twice");
        line.to_owned()
    }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, CallError>, code: Code) {
    match answer {
        Err(CallError::Refused(error)) => assert_eq!(error.code, code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_logged_for_a_request_names_its_session_and_kind() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let directory = private_directory();
    let daemon = Daemon::start(Config::new(directory.path().join("control.sock"))).unwrap();
    let (mut client, welcome) =
        Client::connect(daemon.socket(), Hello::new("a program"), soon()).unwrap();
    let (id, pid) = (welcome.session, std::process::id());
    let session = format!("session{{id={id} pid={pid} program=\"a program\"}}");

    // The event loop refuses this request.
    let name = "missing-1".to_owned();
    assert_refused(client.call(BranchToken { name }, soon()), Code::NOT_FOUND);
    let line = log.line("there is no branch missing-1");
    let spans = format!("{session}:request{{kind=\"BranchToken\"}}:");
    assert!(line.contains(&spans), "{line}");

    // A job refuses this request.
    let request = BranchDiff {
        name: String::new(),
        against: "missing-2".to_owned(),
    };
    assert_refused(client.call(request, soon()), Code::NOT_FOUND);
    let line = log.line("there is no branch or snapshot missing-2");
    let spans = format!("{session}:request{{kind=\"BranchDiff\"}}:");
    assert!(line.contains(&spans), "{line}");
}
