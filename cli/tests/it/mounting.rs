//! Checks `agentfs mount` and `agentfs umount`, and programs on the mount of a daemon process.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc;

use agentfs_testkit::child::{PATIENCE, ended};
use agentfs_testkit::daemon::DaemonProcess;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::mount_table::{is_mount_point, mounts_on, wait_until_cut_off};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

#[test]
fn a_branch_is_mounted_listed_and_taken_away() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    let dir = point.path().to_str().unwrap();
    let said = daemon.succeeds(&["mount", "main", dir]);
    assert_eq!(said, format!("branch main is mounted on {dir}\n"));
    fs::write(point.path().join("f"), "from a program").unwrap();
    assert_eq!(daemon.succeeds(&["fs", "cat", "/f"]), "from a program");
    daemon.succeeds(&["fs", "mv", "/f", "/g"]);
    assert_eq!(
        fs::read_to_string(point.path().join("g")).unwrap(),
        "from a program"
    );
    let status = daemon.succeeds(&["status"]);
    assert!(status.contains(dir), "{status}");

    let open = fs::File::open(point.path().join("g")).unwrap();
    let refused = daemon.run(&["umount", dir]);
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("in use"), "{why}");
    drop(open);
    daemon.succeeds(&["umount", dir]);
    assert!(!is_mount_point(point.path()));
    let status = daemon.succeeds(&["status"]);
    assert!(!status.contains(dir), "{status}");
}

#[test]
fn a_mount_ends_with_the_daemon() {
    if !can_mount() {
        return;
    }
    let mut daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    daemon.succeeds(&["mount", "main", point.path().to_str().unwrap()]);
    assert!(is_mount_point(point.path()));
    daemon.succeeds(&["shutdown"]);
    assert!(daemon.wait().success());
    assert!(!is_mount_point(point.path()));
}

#[test]
fn killing_the_daemon_under_load_leaves_nobody_waiting_and_shows_nothing_beneath() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let in_two_words = tempfile::Builder::new().prefix("two words").tempdir();
    let points = [tempfile::tempdir().unwrap(), in_two_words.unwrap()];
    for point in &points {
        daemon.succeeds(&["mount", "main", point.path().to_str().unwrap()]);
    }
    // The workers are shells, so that one that hangs is a process that the test can wait for.
    let script = "while echo x > f$1 && mv f$1 g$1 && cat g$1 && rm g$1; do :; done; exit 0";
    let mut workers: Vec<_> = (0..8)
        .map(|number| {
            Command::new("sh")
                .args(["-c", script, "worker", &number.to_string()])
                .current_dir(points[number % 2].path())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    // This process tries one more, to see the error.
    let inside = points[0].path().join("inside");
    let (failed, fails) = mpsc::channel();
    std::thread::spawn(move || {
        let mut file = fs::File::create(&inside).unwrap();
        loop {
            if let Err(error) = std::io::Write::write_all(&mut file, b"x") {
                return failed.send(error);
            }
        }
    });
    // Requests of others have to be under way as well, because they invalidate.
    for number in 0..50 {
        daemon.succeeds(&["fs", "mkdir", &format!("/d{number}")]);
    }
    let _directory = daemon.kill();
    let error = fails.recv_timeout(PATIENCE).expect("an error in time");
    assert!(
        matches!(
            error.kind(),
            ErrorKind::NotConnected | ErrorKind::ConnectionAborted
        ),
        "{error}"
    );
    for worker in &mut workers {
        assert!(ended(worker).success());
    }
    for point in &points {
        wait_until_cut_off(point.path());
        rustix::mount::unmount(point.path(), UnmountFlags::DETACH).unwrap();
        assert_eq!(fs::read_dir(point.path()).unwrap().count(), 0);
    }
}

/// Returns the processes that cut the mounts of a daemon off when it dies.
fn guardians(daemon: &DaemonProcess) -> Vec<OwnedFd> {
    let is_guardian = |process: &str| {
        let text = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        rest.split(' ').nth(1) == Some(&daemon.pid().to_string())
            && String::from_utf8_lossy(&text).contains("agentfs-guardian")
    };
    let all = fs::read_dir("/proc").unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: Vec<OwnedFd> = names
        .filter(|name| name.parse::<u32>().is_ok() && is_guardian(name))
        .map(|name| Pid::from_raw(name.parse().unwrap()).unwrap())
        .map(|pid| pidfd_open(pid, PidfdFlags::empty()).unwrap())
        .collect();
    assert!(!found.is_empty(), "no guardian");
    found
}

#[track_caller]
fn wait_until_ended(processes: &[OwnedFd]) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    for process in processes {
        let ready = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience));
        assert_eq!(ready, Ok(1), "a guardian does not end");
    }
}

/// Kills a daemon together with the guardians of its mounts, and starts another one in its place.
fn another_after_a_crash(daemon: DaemonProcess) -> DaemonProcess {
    let guardians = guardians(&daemon);
    for guardian in &guardians {
        pidfd_send_signal(guardian, Signal::KILL).unwrap();
    }
    wait_until_ended(&guardians);
    DaemonProcess::start_in(daemon.kill(), &[])
}

#[test]
fn a_dead_mount_is_mounted_over_or_taken_away_and_nothing_of_it_stays() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    let dir = point.path().to_str().unwrap();
    daemon.succeeds(&["mount", "main", dir]);
    let daemon = another_after_a_crash(daemon);
    let below = point.path().join("below");
    let error = fs::metadata(&below).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    let refused = daemon.run(&["mount", "main", below.to_str().unwrap()]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("agentfs umount"), "{why}");

    daemon.succeeds(&["mount", "main", dir]);
    assert_eq!(mounts_on(point.path()), 1);
    fs::write(&below, "alive").unwrap();
    assert_eq!(daemon.succeeds(&["fs", "cat", "/below"]), "alive");

    let daemon = another_after_a_crash(daemon);
    assert!(is_mount_point(point.path()));
    daemon.succeeds(&["umount", dir]);
    assert!(!is_mount_point(point.path()));
    assert!(!daemon.run(&["umount", dir]).status.success());
}

#[test]
fn what_lies_over_a_mount_stays_when_the_mount_is_taken_away() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    let dir = point.path().to_str().unwrap();
    daemon.succeeds(&["mount", "main", dir]);
    rustix::mount::mount("none", dir, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(point.path().join("f"), "over it").unwrap();
    let refused = daemon.run(&["umount", "--detach", dir]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("mounted over"), "{why}");

    let guardians = guardians(&daemon);
    let directory = daemon.kill();
    wait_until_ended(&guardians);
    assert_eq!(
        fs::read_to_string(point.path().join("f")).unwrap(),
        "over it"
    );
    rustix::mount::unmount(dir, UnmountFlags::empty()).unwrap();
    let daemon = DaemonProcess::start_in(directory, &[]);
    daemon.succeeds(&["umount", dir]);
    assert!(!is_mount_point(point.path()));
}

/// A directory above the mount point was renamed, and a link to another one has its name.
#[test]
fn a_killed_daemons_mount_is_cut_off_where_it_is_now_and_no_other() {
    if !can_mount() {
        return;
    }
    let (daemon, other) = (DaemonProcess::start(), DaemonProcess::start());
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).join("a point");
    for (daemon, name) in [(&daemon, "above"), (&other, "theirs")] {
        fs::create_dir_all(at(name)).unwrap();
        daemon.succeeds(&["mount", "main", at(name).to_str().unwrap()]);
    }
    let (above, renamed) = (dir.path().join("above"), dir.path().join("renamed"));
    fs::rename(&above, &renamed).unwrap();
    std::os::unix::fs::symlink(dir.path().join("theirs"), &above).unwrap();
    let guardians = guardians(&daemon);
    let _directory = daemon.kill();
    wait_until_ended(&guardians);
    wait_until_cut_off(&at("renamed"));
    assert!(is_mount_point(&at("theirs")));
    fs::write(at("theirs").join("f"), "alive").unwrap();
    other.succeeds(&["umount", at("renamed").to_str().unwrap()]);
    assert!(!is_mount_point(&at("renamed")));
    other.succeeds(&["umount", at("theirs").to_str().unwrap()]);
}
