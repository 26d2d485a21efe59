//! Checks lower directories that are not watched, or not everywhere: a branch shows what the host has,
//! applying finds what the host changed, and the status reports how many directories are not watched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use agentfs_proto::message::Status;
use agentfs_testkit::environment::can_mount;
use tempfile::TempDir;

use agentfs_testkit::child::{ended, soon};
use agentfs_testkit::daemon::{DaemonProcess, Ready, connect, private_directory};

const OLD: &str = "the old text of the host\n";
const NEW: &str = "THE NEW TEXT OF THE HOST\n";
const LONGER: &str = "the new text of the host, which is longer than the old\n";

fn counter(socket: &Path, name: &str) -> u64 {
    let report = connect(socket).call(Status { after: 0 }, soon()).unwrap();
    let mut counters = report.counters.iter();
    counters.find(|it| it.name == name).map_or(0, |it| it.value)
}

/// A daemon over a directory, with a mount of branch main.
struct Place {
    daemon: DaemonProcess,
    point: TempDir,
}

impl Place {
    fn over(lower: &Path, options: &[&str]) -> Self {
        let mut arguments = vec!["--lower", lower.to_str().unwrap()];
        arguments.extend(options);
        let daemon = DaemonProcess::start_in(private_directory(), &arguments);
        let point = tempfile::tempdir().unwrap();
        daemon.succeeds(&["mount", "main", point.path().to_str().unwrap()]);
        Self { daemon, point }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.point.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// Rewrites the file in one of several ways: by writing or by renaming, to the same size or
/// another, with the time set back.
fn rewrite(path: &Path, way: usize, text: &str) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    if way.is_multiple_of(2) {
        fs::write(path, text).unwrap();
    } else {
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }
    if way >= 2 {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }
}

#[test]
fn what_is_not_watched_is_looked_at_again_and_not_overwritten() {
    if !can_mount() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    for name in ["f", "dir/f", "same", "gone"] {
        fs::write(host.path().join(name), OLD).unwrap();
    }
    symlink("f", host.path().join("link")).unwrap();
    let place = Place::over(host.path(), &["--no-watch-lower"]);
    for way in 0..4 {
        for text in [NEW, LONGER, "", OLD] {
            for name in ["f", "dir/f", "link"] {
                let size = fs::metadata(place.path(name)).unwrap().len();
                assert_eq!(size, place.read(name).len() as u64, "{name}, {way}");
            }
            for name in ["f", "dir/f"] {
                rewrite(&host.path().join(name), way, text);
                let size = fs::metadata(place.path(name)).unwrap().len();
                assert_eq!(size, text.len() as u64, "{name}, {way}");
                assert_eq!(place.read(name), text, "{name}, {way}");
            }
            assert_eq!(place.read("link"), text, "{way}");
        }
    }
    assert!(!place.path("dir/new").exists());
    fs::write(host.path().join("dir/new"), NEW).unwrap();
    assert_eq!(place.read("dir/new"), NEW);
    fs::remove_file(host.path().join("gone")).unwrap();
    assert!(!place.path("gone").exists());

    // The file is edited as an editor does it: what was read before is changed, and all of it is
    // written.
    for name in ["f", "dir/f", "same"] {
        let text = place.read(name);
        if name != "same" {
            rewrite(&host.path().join(name), 2, LONGER);
        }
        fs::write(place.path(name), text + "edited\n").unwrap();
    }
    let refused = place.daemon.run(&["branch", "apply", "main"]);
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stdout) + String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("dir/f") && !said.contains("same"), "{said}");
    for name in ["f", "dir/f"] {
        assert_eq!(fs::read_to_string(host.path().join(name)).unwrap(), LONGER);
    }
    assert_eq!(fs::read_to_string(host.path().join("same")).unwrap(), OLD);
    let status = place.daemon.succeeds(&["status"]);
    assert!(
        status.contains("is not watched (--no-watch-lower)"),
        "{status}"
    );
    assert_eq!(counter(&place.daemon.socket(), "lower_watch_off"), 1);
}

/// The lower directory is a mount, and somebody changes its files by another way.
#[test]
fn a_lower_directory_that_others_change_unheard_is_right_and_said_to_be_so() {
    if !can_mount() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    fs::write(host.path().join("dir/f"), OLD).unwrap();
    let below = Place::over(host.path(), &[]);
    let place = Place::over(below.point.path(), &[]);
    let write = |text: &str| {
        let mut child = agentfs_testkit::daemon::agentfs(below.daemon.directory.path())
            .args(["fs", "write", "/dir/f"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(ended(&mut child).success());
    };
    for text in [NEW, LONGER, "cut", OLD] {
        assert!(!place.read("dir/f").is_empty());
        write(text);
        assert_eq!(place.read("dir/f"), text);
        let size = fs::metadata(place.path("dir/f")).unwrap().len();
        assert_eq!(size, text.len() as u64);
    }
    let text = place.read("dir/f");
    write(LONGER);
    fs::write(place.path("dir/f"), text + "edited\n").unwrap();
    let refused = place.daemon.run(&["branch", "apply", "main"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(below.read("dir/f"), LONGER);
    let status = place.daemon.succeeds(&["status"]);
    let line = "2 of 2 directories";
    assert!(status.contains(line) && status.contains("FUSE"), "{status}");
    assert_eq!(counter(&place.daemon.socket(), "lower_dirs_remote"), 2);
    let json = place.daemon.succeeds(&["status", "--json"]);
    assert!(json.contains("\"not_watched\":\"2 of 2"), "{json}");
}

/// A daemon that ends with the test, however that ends.
struct Started(Child);

impl Started {
    /// Starts the daemon, and waits until it listens.
    fn by(command: &mut Command, ready: &Ready) -> Self {
        let command = command.env("NOTIFY_SOCKET", ready.path());
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let started = Self(command.spawn().unwrap());
        ready.wait();
        started
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

/// A directory that may not be read used to end the watching of all directories that came after it.
#[test]
fn a_directory_that_may_not_be_read_does_not_keep_the_others_from_being_watched() {
    const USER: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = private_directory();
    let at = |name: &str| directory.path().join(name);
    fs::copy(env!("CARGO_BIN_EXE_agentfs"), at("agentfs")).unwrap();
    for name in ["lower", "lower/a", "lower/b", "lower/c", "run"] {
        fs::create_dir(at(name)).unwrap();
    }
    let private = fs::Permissions::from_mode(0o700);
    for name in ["lower/a", "lower/b", "lower/c", "run"] {
        fs::set_permissions(at(name), private.clone()).unwrap();
    }
    for name in ["", "agentfs", "lower", "lower/c", "run"] {
        chown(at(name), Some(USER), Some(USER)).unwrap();
    }
    chown(at("lower/a"), Some(USER), Some(USER)).unwrap();
    let ready = Ready::new();
    fs::set_permissions(ready.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(
        ready.path().parent().unwrap(),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(at("agentfs"))
        .args(["daemon", "--lower"])
        .arg(at("lower"))
        .env("XDG_STATE_HOME", at("run/state"))
        .env("AGENTFS_SOCKET", at("run/control.sock"));
    let mut daemon = Started::by(&mut command, &ready);
    let socket = at("run/control.sock");
    assert_eq!(counter(&socket, "lower_dirs_watched"), 3);
    assert_eq!(counter(&socket, "lower_dirs_refused"), 1);
    let status = Command::new(env!("CARGO_BIN_EXE_agentfs"))
        .arg("status")
        .env("AGENTFS_SOCKET", &socket)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    let line = "1 of 4 directories";
    assert!(
        text.contains(line) && text.contains("may not be read"),
        "{text}"
    );
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&daemon.0),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert!(ended(&mut daemon.0).success());
}

/// Runs a script with so many inotify watches as root of a user namespace of its own.
fn with_watches(watches: u32, script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("echo {watches} > /proc/sys/user/max_inotify_watches && {script}");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .args(arguments);
    command
}

#[test]
fn every_file_is_right_when_there_are_fewer_watches_than_directories() {
    const DIRS: usize = 100;
    if !can_mount() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    let file = |dir: usize| host.path().join(format!("d{dir:02}/f"));
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    for dir in 0..DIRS {
        fs::create_dir(file(dir).parent().unwrap()).unwrap();
        fs::write(file(dir), format!("{dir}: {OLD}")).unwrap();
    }
    let directory = private_directory();
    let point = tempfile::tempdir().unwrap();
    let (lower, socket) = (host.path(), directory.path().join("control.sock"));
    let ready = Ready::new();
    let agentfs = env!("CARGO_BIN_EXE_agentfs");
    let script = "exec \"$0\" daemon --lower \"$1\" --socket \"$2\"";
    let arguments = [agentfs, lower.to_str().unwrap(), socket.to_str().unwrap()];
    let mut daemon = Started::by(&mut with_watches(71, script, &arguments), &ready);
    let inside = |program: &str, words: &[&str]| -> Output {
        Command::new("nsenter")
            .args(["--user", "--mount", "--preserve-credentials"])
            .args(["--target", &daemon.0.id().to_string(), program])
            .args(words)
            .env("AGENTFS_SOCKET", &socket)
            .output()
            .unwrap()
    };
    let sh = |script: &str| {
        let done = inside("sh", &["-c", script, "sh", point.path().to_str().unwrap()]);
        assert!(done.status.success(), "{script}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let mounted = inside(agentfs, &["mount", "main", point.path().to_str().unwrap()]);
    assert!(mounted.status.success(), "{mounted:?}");
    assert_eq!(counter(&socket, "lower_dirs_watched"), 71);
    assert_eq!(counter(&socket, "lower_dirs_over_limit"), 30);
    let status = inside(agentfs, &["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("30 of 101 directories"), "{status}");
    assert!(
        status.contains("sysctl fs.inotify.max_user_watches="),
        "{status}"
    );

    // Every file is read before and after the host changes it.
    let all = || (0..DIRS).map(|dir| read(file(dir))).collect::<String>();
    let seen = || sh("cd \"$1\" && cat d*/f");
    assert_eq!(seen(), all());
    for dir in 0..DIRS {
        rewrite(&file(dir), dir % 4, &format!("{dir}: {LONGER}"));
    }
    assert_eq!(seen(), all());
    let sizes: String = (0..DIRS)
        .map(|dir| format!("{}\n", read(file(dir)).len()))
        .collect();
    assert_eq!(sh("cd \"$1\" && stat -c %s d*/f"), sizes);

    // Every file is edited, and the host has changed every third one since it was read.
    let newer = |dir: usize| dir.is_multiple_of(3);
    for dir in (0..DIRS).filter(|dir| newer(*dir)) {
        rewrite(&file(dir), dir % 4, &format!("{dir}: {NEW}"));
    }
    let before = all();
    sh("cd \"$1\" && for f in d*/f; do echo edited > $f; done");
    let refused = inside(agentfs, &["branch", "apply", "main"]);
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stdout) + String::from_utf8_lossy(&refused.stderr);
    for dir in 0..DIRS {
        let is_told = said.contains(&format!("d{dir:02}/f"));
        assert_eq!(is_told, newer(dir), "{dir}: {said}");
    }
    assert_eq!(all(), before);
    assert!(!before.contains('\0'));
    assert!(inside(agentfs, &["shutdown"]).status.success());
    assert!(ended(&mut daemon.0).success());
}
