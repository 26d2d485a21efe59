//! Mounts outlive a daemon that is killed: programs on them only wait.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agentfs_testkit::child::{PATIENCE, ended};
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::mount_table::is_mount_point;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How often the daemon is killed while the script is at work.
const KILLS: usize = 3;
/// The rounds of the script, and how many of them there are between two kills.
const ROUNDS: usize = 160;
const BETWEEN: usize = 40;

/// Checks each result, and says which round is done. It has one file open all the time.
const SCRIPT: &str = r#"
set -eu
exec 9>>log
i=0
while [ "$i" -lt "$1" ]; do
  mkdir "d$i"
  echo "first $i" >"d$i/f"
  echo "second $i" >>"d$i/f"
  sync "d$i/f"
  mv "d$i/f" "d$i/g"
  [ ! -e "d$i/f" ]
  [ "$(cat "d$i/g")" = "first $i
second $i" ]
  ln -s g "d$i/s"
  ln "d$i/g" "d$i/h"
  rm "d$i/h"
  echo "$i" >&9
  [ "$(tail -n 1 log)" = "$i" ]
  echo "$i"
  i=$((i + 1))
done
"#;

/// Returns the process that listens at a socket.
fn server_at(socket: &Path) -> Pid {
    let connection = UnixStream::connect(socket).unwrap();
    socket_peercred(&connection).unwrap().pid
}

/// Kills the daemon at a socket, and waits until it is gone.
pub(crate) fn kill(socket: &Path) {
    let pid = server_at(socket);
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&process, Signal::KILL).unwrap();
    let end = Timespec::try_from(PATIENCE).unwrap();
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&end)), Ok(1), "the daemon is gone");
}

fn script(point: &Path) -> Child {
    Command::new("sh")
        .args(["-c", SCRIPT, "script"])
        .arg(ROUNDS.to_string())
        .current_dir(point)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts a daemon that keeps its mounts, and mounts a branch.
pub(crate) fn start(store: &Path, point: &Path) -> DaemonProcess {
    let arguments = ["--keep-mounts", "--store", store.to_str().unwrap()];
    let daemon = DaemonProcess::start_in(private_directory(), &arguments);
    daemon.succeeds(&["mount", "main", point.to_str().unwrap()]);
    daemon
}

/// Ends the daemon of now, and waits until it is gone.
pub(crate) fn shut_down(daemon: &DaemonProcess) {
    let last = pidfd_open(server_at(&daemon.socket()), PidfdFlags::empty()).unwrap();
    daemon.succeeds(&["shutdown"]);
    let end = Timespec::try_from(PATIENCE).unwrap();
    let mut polled = [PollFd::new(&last, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&end)), Ok(1), "the daemon ends");
}

#[test]
fn removed_files_that_are_open_outlive_daemons() {
    if !can_mount() {
        return;
    }
    let (beside, point) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = beside.path().join("store");
    let mut daemon = start(&store, point.path());
    let open = |name: &str| {
        let path = point.path().join(name);
        fs::write(&path, format!("content of {name}")).unwrap();
        let file = File::options().read(true).write(true).open(&path);
        (path, file.unwrap())
    };
    let content = |file: &File| {
        let mut content = vec![0; 100];
        let read = file.read_at(&mut content, 0).unwrap();
        content.truncate(read);
        String::from_utf8(content).unwrap()
    };
    let ((before, removed_before), (after, removed_after)) = (open("before"), open("after"));
    let (_, closed) = open("closed");
    fs::remove_file(point.path().join("closed")).unwrap();
    fs::remove_file(before).unwrap();
    kill(&daemon.socket());
    assert!(!daemon.wait().success());
    // The server of now has not heard of the file that is open.
    fs::remove_file(after).unwrap();
    drop(closed);
    assert_eq!(content(&removed_before), "content of before");
    assert_eq!(content(&removed_after), "content of after");
    removed_before.write_at(b"CONTENT", 0).unwrap();
    kill(&daemon.socket());
    removed_after.write_at(b"CONTENT", 0).unwrap();
    assert_eq!(content(&removed_before), "CONTENT of before");
    assert_eq!(content(&removed_after), "CONTENT of after");
    assert_eq!(fs::read_dir(point.path()).unwrap().count(), 0);
    drop((removed_before, removed_after));
    shut_down(&daemon);
    assert!(!is_mount_point(point.path()));
}

#[test]
fn a_script_on_a_mount_goes_on_while_the_daemon_is_killed_again_and_again() {
    if !can_mount() {
        return;
    }
    let (beside, point) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = beside.path().join("store");
    let mut daemon = start(&store, point.path());
    let socket = daemon.socket();
    let mut script = script(point.path());
    let mut said = BufReader::new(script.stdout.take().unwrap()).lines();
    for _ in 0..KILLS {
        let done = said.by_ref().take(BETWEEN).map(Result::unwrap).count();
        assert_eq!(done, BETWEEN);
        kill(&socket);
    }
    assert!(!daemon.wait().success());
    let rest = said.map(Result::unwrap).count();
    assert!(
        ended(&mut script).success(),
        "{rest} rounds after the kills"
    );
    assert_eq!(rest + KILLS * BETWEEN, ROUNDS);

    let log: Vec<String> = (0..ROUNDS).map(|round| format!("{round}\n")).collect();
    assert_eq!(
        fs::read_to_string(point.path().join("log")).unwrap(),
        log.concat()
    );
    for round in 0..ROUNDS {
        let directory = point.path().join(format!("d{round}"));
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["g", "s"]);
        assert_eq!(
            fs::read_to_string(directory.join("s")).unwrap(),
            format!("first {round}\nsecond {round}\n")
        );
    }
    // The daemon of now is one as any other: it ends, and takes the mount away.
    shut_down(&daemon);
    assert!(!is_mount_point(point.path()));
    let left = fs::read_dir(store.join("mounts")).unwrap();
    let is_socket = |name: &Path| name.extension().is_some_and(|it| it == "mount");
    assert!(left.map(|it| it.unwrap().path()).all(|it| !is_socket(&it)));
}
