//! Tests what only a Mac can show: that dyld binds a program's own calls to the hooks, and that the
//! program gets its kernel's events through them. The tests run with `MACOS_E2E=1`.
#![cfg(target_os = "macos")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the library that was built with this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.with_file_name("libagentfs_interpose_shim.dylib");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

fn kq_demo(directory: &Path) -> PathBuf {
    let program = directory.join("kq_demo");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kq_demo.c");
    let mut cc = Command::new("cc");
    let status = cc.arg("-o").args([&program, &source]).status().unwrap();
    assert!(status.success(), "cc compiles {}", source.display());
    program
}

/// Receives lines or connections from a thread that may wait without end.
fn sent<T: Send + 'static>(mut next: impl FnMut() -> Option<T> + Send + 'static) -> Receiver<T> {
    let (sender, received) = channel();
    std::thread::spawn(move || {
        while let Some(it) = next() {
            if sender.send(it).is_err() {
                break;
            }
        }
    });
    received
}

/// The process is killed when this is dropped, also when the test fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_program_asks_the_daemon_and_hears_its_kernel() {
    if std::env::var_os("MACOS_E2E").is_none_or(|it| it != "1") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("file"), directory.path().join("s"));
    std::fs::write(&file, "text").unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    // Each connection is closed at once, as by a daemon that ends.
    let connections = sent(move || listener.accept().ok().map(drop));
    let mut command = Command::new(kq_demo(directory.path()));
    command
        .arg(&file)
        .env("DYLD_INSERT_LIBRARIES", library())
        .env("AGENTFS_SOCKET", &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let lines = sent(move || lines.next()?.ok());
    let line = || lines.recv_timeout(PATIENCE).expect("a line in time");

    connections
        .recv_timeout(PATIENCE)
        .expect("the hook of kevent asks the daemon whose file it is");
    assert_eq!(line(), "ready", "its own timer and user event came");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .unwrap()
        .write_all(b"more")
        .unwrap();
    assert!(line().contains("WRITE"));
    let mut input = program.0.stdin.take().unwrap();
    writeln!(input, "hello").unwrap();
    assert_eq!(line(), "stdin: a line");
}
