//! Tests the keeper, which holds a mount while the processes that serve it come and go.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentfs_mount::{TakeError, clear_dead, kept_in, take};
use agentfs_testkit::environment::can_mount;
use rustix::fs::inotify;
use tempfile::TempDir;

use crate::takeover::{DEADLINE, Load, harmless, heard, start, wait_for_work};

/// How often a server is killed.
const KILLS: usize = 12;

/// A server in a process of its own.
struct ServerProcess(Child);

impl ServerProcess {
    fn start(arguments: &[&Path]) -> Self {
        let tests = std::env::current_exe().unwrap();
        let program: PathBuf = tests.parent().unwrap().join("../examples/takeover");
        assert!(
            program.exists(),
            "run `cargo build -p agentfs-mount --examples` first"
        );
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Lets it leave the mount to the next one.
    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// A mount that a server process serves and a keeper keeps.
struct KeptMount {
    sockets: TempDir,
    dir: TempDir,
}

impl KeptMount {
    fn start(patience: &str) -> Option<(Self, ServerProcess)> {
        if !can_mount() {
            return None;
        }
        let (sockets, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let arguments = [
            "serve".as_ref(),
            sockets.path(),
            patience.as_ref(),
            dir.path(),
        ];
        let server = ServerProcess::start(&arguments);
        Some((Self { sockets, dir }, server))
    }

    fn next(&self) -> ServerProcess {
        ServerProcess::start(&["next".as_ref(), self.sockets.path(), "60000".as_ref()])
    }

    fn socket(&self) -> PathBuf {
        let all = kept_in(self.sockets.path()).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }
}

impl Drop for KeptMount {
    fn drop(&mut self) {
        // A mount that a test left is not to be in the way of the removal of the directory.
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.dir.path(), flags).unwrap_or_default();
    }
}

#[test]
fn server_that_is_killed_in_the_middle_of_requests_is_replaced_without_an_error() {
    let Some((mount, server)) = KeptMount::start("60000") else {
        return;
    };
    let dir = mount.dir.path().join("d");
    // From the first closing of a file on, the kernel knows that this server has no use for FLUSH. Otherwise
    // the start of the next server hangs: the new process has copies of the files that the load has open,
    // closes them in execve(2), and waits for the answer to FLUSH, which only the next server can give.
    drop(fs::File::open(dir.join("a")).unwrap());
    let load = Load::start(harmless(&dir));
    let mut server = server;
    for round in 0..KILLS {
        wait_for_work(&load, load.done(), round);
        server.0.kill().unwrap();
        let next = mount.next();
        // A thread of the killed server may have waited for an answer that only the next one gave.
        server.0.wait().unwrap();
        server = next;
    }
    wait_for_work(&load, load.done(), KILLS);
    server.end();
    let last = mount.next();
    wait_for_work(&load, load.done(), KILLS + 1);
    load.end();
    assert_eq!(
        fs::read(mount.dir.path().join("d/a")).unwrap().len(),
        64 << 10
    );
    last.kill();
}

#[test]
fn mount_that_nobody_takes_over_answers_an_error_and_never_shows_what_is_beneath() {
    let Some((mount, server)) = KeptMount::start("200") else {
        return;
    };
    let (point, socket) = (mount.dir.path().to_owned(), mount.socket());
    let path = point.join("d/new");
    // Goes on writing until it fails.
    let writes = start(move || {
        loop {
            if let Err(error) = fs::write(&path, "written") {
                return (
                    error.kind(),
                    fs::write(path.with_file_name("..").join("beneath"), "")
                        .map_err(|error| error.kind()),
                );
            }
        }
    });
    server.kill();
    let (first, later) = writes.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(
            first,
            ErrorKind::NotConnected | ErrorKind::ConnectionAborted
        ),
        "{first:?}"
    );
    assert_eq!(later, Err(ErrorKind::NotConnected));
    let late = take(&socket, DEADLINE).unwrap_err();
    assert!(matches!(late, TakeError::NoKeeper(_)), "{late}");
    let error = fs::write(point.join("beneath"), "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(clear_dead(&point), "it was mounted all the time");
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
}

#[test]
fn mount_is_passed_on_only_to_its_user_and_when_no_server_is_there() {
    let Some((mount, server)) = KeptMount::start("60000") else {
        return;
    };
    let socket = mount.socket();
    let served = take(&socket, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(served, TakeError::Served(_)), "{served}");
    if rustix::process::geteuid().is_root() {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&socket, Clone::clone(&everybody)).unwrap();
        fs::set_permissions(mount.sockets.path(), everybody).unwrap();
        server.kill();
        let stranger = socket.clone();
        // The credentials are those of the thread that connects.
        let refused = start(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_uid(nobody).unwrap();
            let connection = std::os::unix::net::UnixStream::connect(stranger);
            connection.and_then(|mut it| it.read(&mut [0]))
        });
        let refused = refused.recv_timeout(DEADLINE).unwrap();
        assert_eq!(refused.unwrap(), 0, "nothing is said to a stranger");
    } else {
        server.kill();
    }
    let kept = take(&socket, DEADLINE).unwrap();
    assert_eq!(kept.saved.point, mount.dir.path());
    // Who takes it and does not serve it has not ended it.
    drop(kept);
    mount.next().end();
    let last = mount.next();
    assert_eq!(
        fs::metadata(mount.dir.path().join("d/a")).unwrap().len(),
        64 << 10
    );
    let keeper = mount.socket();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, mount.sockets.path(), inotify::WatchFlags::DELETE).unwrap();
    rustix::mount::unmount(mount.dir.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    // The keeper ends with the mount.
    assert_eq!(
        heard(&watch),
        [keeper.file_name().unwrap().to_str().unwrap()]
    );
    last.kill();
}
