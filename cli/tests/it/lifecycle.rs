//! Checks how the daemon starts and ends.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use agentfs_client::CallError;
use agentfs_proto::message::Shutdown;
use rustix::process::{Pid, Signal, kill_process};

use agentfs_testkit::child::{ended, soon};
use agentfs_testkit::daemon::{
    DaemonProcess, Ready, agentfs, assert_answers, connect, private_directory,
};

#[test]
fn a_signal_ends_it_and_removes_the_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = DaemonProcess::start();
        let mut client = daemon.client();
        assert_answers(&mut client);
        daemon.signal(signal);
        assert!(daemon.wait().success());
        assert!(!daemon.socket().exists());
        assert!(matches!(client.receive(soon()), Err(CallError::Closed)));
    }
}

#[test]
fn one_whose_log_nobody_reads_any_more_serves_and_ends_as_usual() {
    let directory = private_directory();
    let (reader, log) = std::io::pipe().unwrap();
    drop(reader);
    let ready = Ready::new();
    let mut daemon = agentfs(directory.path())
        .arg("daemon")
        .env("NOTIFY_SOCKET", ready.path())
        .env("RUST_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    ready.wait();
    assert_answers(&mut connect(&directory.path().join("control.sock")));
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(ended(&mut daemon).success());
}

#[test]
fn a_request_ends_it_and_is_answered() {
    let mut daemon = DaemonProcess::start();
    let mut client = daemon.client();
    client
        .call(
            Shutdown {
                reason: "test".to_owned(),
                discard: false,
            },
            soon(),
        )
        .unwrap();
    assert!(daemon.wait().success());
    assert!(!daemon.socket().exists());
}

#[test]
fn a_second_daemon_gives_way_to_the_first() {
    let daemon = DaemonProcess::start();
    let second = daemon.run(&["daemon"]);
    assert!(!second.status.success());
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        text.contains("already listening") && text.trim_end().ends_with(" shutdown"),
        "{text}"
    );
    assert_answers(&mut daemon.client());
}

#[test]
fn the_socket_of_a_killed_daemon_is_replaced() {
    let mut directory = DaemonProcess::start().kill();
    for _ in 0..3 {
        assert!(directory.path().join("control.sock").exists());
        let daemon = DaemonProcess::start_in(directory, &[]);
        assert_answers(&mut daemon.client());
        directory = daemon.kill();
    }
}

#[test]
fn the_socket_of_another_program_is_left_alone() {
    let directory = private_directory();
    let path = directory.path().join("control.sock");
    let other = UnixListener::bind(&path).unwrap();
    let refused = agentfs(directory.path()).arg("daemon").output().unwrap();
    assert!(!refused.status.success());
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    let refused = agentfs(directory.path()).arg("daemon").output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("not a socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

#[test]
fn a_socket_from_systemd_is_used_and_left_in_place() {
    let directory = private_directory();
    let path = directory.path().join("systemd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let ready = Ready::new();
    let mut child = Command::new("sh")
        .args([
            "-c",
            "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$AGENTFS\" daemon",
        ])
        .env("AGENTFS", env!("CARGO_BIN_EXE_agentfs"))
        .env("NOTIFY_SOCKET", ready.path())
        .env("RUST_LOG", "warn")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .unwrap();
    ready.wait();
    let mut client = connect(&path);
    assert_answers(&mut client);
    client
        .call(
            Shutdown {
                reason: "test".to_owned(),
                discard: false,
            },
            soon(),
        )
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(path.exists());
}

#[test]
fn without_a_daemon_the_program_says_how_to_start_one() {
    let directory = private_directory();
    let refused = agentfs(directory.path())
        .args(["fs", "ls"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("agentfs daemon"), "{text}");
}
