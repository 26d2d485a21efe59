//! `agentfs mount`, `agentfs umount`, and programs in a mount of a daemon in a process of its own.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{DaemonProcess, PATIENCE};

/// Set to leave out, loudly, what needs /dev/fuse.
const SKIP: &str = "AGENTFS_SKIP_FUSE_TESTS";

pub(crate) fn can_mount() -> bool {
    let Err(error) = agentfs_mount::check_device() else {
        return true;
    };
    assert!(
        std::env::var_os(SKIP).is_some(),
        "mounts cannot be tested here: {error}; or set {SKIP}=1 to leave them out"
    );
    #[expect(clippy::print_stderr, reason = "what is left out is said")]
    {
        eprintln!("LEFT OUT ({SKIP} is set): no mount is tested, since {error}");
    }
    false
}

#[track_caller]
fn succeeds(daemon: &DaemonProcess, arguments: &[&str]) -> String {
    let output = daemon.run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}

#[test]
fn a_branch_is_mounted_listed_and_taken_away() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    let dir = point.path().to_str().unwrap();
    let said = succeeds(&daemon, &["mount", "main", dir]);
    assert_eq!(said, format!("branch main is mounted on {dir}\n"));
    fs::write(point.path().join("f"), "from a program").unwrap();
    assert_eq!(succeeds(&daemon, &["fs", "cat", "/f"]), "from a program");
    succeeds(&daemon, &["fs", "mv", "/f", "/g"]);
    assert_eq!(
        fs::read_to_string(point.path().join("g")).unwrap(),
        "from a program"
    );
    let status = succeeds(&daemon, &["status"]);
    assert!(status.contains(dir), "{status}");

    let open = fs::File::open(point.path().join("g")).unwrap();
    let refused = daemon.run(&["umount", dir]);
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("in use"), "{why}");
    drop(open);
    succeeds(&daemon, &["umount", dir]);
    assert!(!is_mount_point(point.path()));
    let status = succeeds(&daemon, &["status"]);
    assert!(!status.contains(dir), "{status}");
}

#[test]
fn a_mount_ends_with_the_daemon() {
    if !can_mount() {
        return;
    }
    let mut daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    succeeds(&daemon, &["mount", "main", point.path().to_str().unwrap()]);
    assert!(is_mount_point(point.path()));
    succeeds(&daemon, &["shutdown"]);
    assert!(daemon.wait().success());
    assert!(!is_mount_point(point.path()));
}

/// Waits until the kernel tells of a changed mount table in which `path` is no mount point.
fn wait_until_unmounted(path: &Path) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let table = fs::File::open("/proc/self/mountinfo").unwrap();
    let until = Instant::now() + PATIENCE;
    while is_mount_point(path) {
        let left = until.saturating_duration_since(Instant::now());
        assert!(left > Duration::ZERO, "{} is still mounted", path.display());
        let mut polled = [PollFd::new(&table, PollFlags::PRI)];
        let wait = Timespec::try_from(left).unwrap();
        // One change since the file was opened is remembered.
        poll(&mut polled, Some(&wait)).unwrap();
    }
}

#[test]
fn killing_the_daemon_under_load_leaves_no_mount_and_nobody_waiting() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let points = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for point in &points {
        succeeds(&daemon, &["mount", "main", point.path().to_str().unwrap()]);
    }
    // Shells, so that a process that hangs is a process, and is waited for.
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
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Another one in this process, to see the error.
        let inside = points[0].path().join("inside");
        let failing = scope.spawn(move || {
            let mut file = fs::File::create(&inside).unwrap();
            loop {
                if let Err(error) = std::io::Write::write_all(&mut file, b"x") {
                    return error;
                }
            }
        });
        // Requests of others have to be under way as well: they invalidate.
        for number in 0..50 {
            succeeds(&daemon, &["fs", "mkdir", &format!("/d{number}")]);
        }
        let directory = daemon.kill();
        let error = failing.join().unwrap();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::NotConnected | ErrorKind::ConnectionAborted
            ),
            "{error}"
        );
        ended.store(true, Ordering::SeqCst);
        drop(directory);
    });
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
    for point in &points {
        wait_until_unmounted(point.path());
    }
}
