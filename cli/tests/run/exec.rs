//! Checks `agentfs exec`: the command, the library it loads, and what it hears.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::project::Said;
use agentfs_testkit::daemon::{DaemonProcess, agentfs, private_directory};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

/// Returns `agentfs exec` with a runtime directory of its own, into which the library is put.
fn exec(daemon: &DaemonProcess, words: &[&str]) -> Command {
    let mut command = agentfs(daemon.directory.path());
    command
        .env("XDG_RUNTIME_DIR", daemon.directory.path())
        .env_remove("LD_PRELOAD")
        .args(["exec", "--"])
        .args(words);
    command
}

fn installed(daemon: &DaemonProcess) -> PathBuf {
    let mut files = fs::read_dir(daemon.directory.path().join("agentfs")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one file");
    file
}

#[track_caller]
fn preloads(daemon: &DaemonProcess) {
    let script = "grep -c shim- /proc/self/maps";
    let said = Said::by(&mut exec(daemon, &["sh", "-c", script]));
    assert_eq!((said.status, &*said.err), (Some(0), ""), "{said:?}");
}

#[test]
fn exit_status_and_signals_are_the_commands() {
    let daemon = DaemonProcess::start();
    let said = Said::by(&mut exec(&daemon, &["sh", "-c", "exit 7"]));
    assert_eq!(said.status, Some(7));
    let program = Program::start(&mut exec(
        &daemon,
        &["sh", "-c", "echo $$; exec sleep 1000"],
    ));
    assert_eq!(
        program.line(),
        program.pid().to_string(),
        "the same process"
    );
    program.signal(Signal::USR1);
    let mut program = program;
    let (status, _, _) = program.finish();
    assert_eq!(status.signal(), Some(Signal::USR1.as_raw()));
}

#[test]
fn what_cannot_be_run_has_a_status_of_its_own() {
    let daemon = DaemonProcess::start();
    let file = daemon.directory.path().join("data");
    fs::write(&file, "data").unwrap();
    let none = Said::by(&mut exec(&daemon, &["/no/such/program"]));
    assert_eq!(none.status, Some(127));
    assert!(none.err.contains("/no/such/program"), "{none:?}");
    let no_program = Said::by(&mut exec(&daemon, &[file.to_str().unwrap()]));
    assert_eq!(no_program.status, Some(126));
    let alone = private_directory();
    let mut command = agentfs(alone.path());
    let said = Said::by(command.args(["exec", "--", "true"]));
    assert_eq!(said.status, Some(125), "there is no daemon");
}

#[test]
fn the_library_is_kept_and_put_back_when_it_is_not_ours() {
    let daemon = DaemonProcess::start();
    preloads(&daemon);
    let file = installed(&daemon);
    let first = fs::metadata(&file).unwrap();
    assert_eq!(first.mode() & 0o077, 0, "for this user alone");
    preloads(&daemon);
    assert_eq!(fs::metadata(&file).unwrap().ino(), first.ino(), "kept");

    let library = fs::read(&file).unwrap();
    fs::write(&file, "something else").unwrap();
    preloads(&daemon);
    assert_eq!(fs::read(&file).unwrap(), library);

    let writable = fs::Permissions::from_mode(0o666);
    fs::set_permissions(&file, writable).unwrap();
    preloads(&daemon);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o077, 0);

    let elsewhere = daemon.directory.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    preloads(&daemon);
    assert!(fs::symlink_metadata(&file).unwrap().is_file(), "no link");
    assert_eq!(installed(&daemon), file);
}

#[test]
fn an_open_runtime_directory_is_refused() {
    let daemon = DaemonProcess::start();
    let runtime = daemon.directory.path().join("agentfs");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o777)).unwrap();
    let said = Said::by(&mut exec(&daemon, &["true"]));
    assert_eq!(said.status, Some(125));
    assert!(said.err.contains("chmod 700"), "{said:?}");
}

#[test]
fn what_was_preloaded_before_still_is() {
    let daemon = DaemonProcess::start();
    let print = ["sh", "-c", "echo $LD_PRELOAD"];
    let said = Said::by(exec(&daemon, &print).env("LD_PRELOAD", "libc.so.6"));
    let shim = installed(&daemon);
    assert_eq!(said.out.trim(), format!("{}:libc.so.6", shim.display()));
    let nested = Said::by(exec(&daemon, &print).env("LD_PRELOAD", &shim));
    assert_eq!(nested.out.trim(), shim.to_str().unwrap(), "not twice");
}

#[test]
fn a_stock_program_hears_a_change_from_outside() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let point = tempfile::tempdir().unwrap();
    let dir = point.path().to_str().unwrap();
    assert!(daemon.run(&["mount", "main", dir]).status.success());
    let watch = ["inotifywait", "-m", "--format", "%e %f", dir];
    let program = Program::start(&mut exec(&daemon, &watch));
    program.complains("Watches established");
    assert!(
        daemon
            .run(&["fs", "touch", "/from-outside"])
            .status
            .success()
    );
    assert_eq!(program.line(), "CREATE from-outside");
    fs::write(Path::new(dir).join("by-mount"), "").unwrap();
    program.expect("CREATE by-mount");
    drop(program);
    assert!(daemon.run(&["umount", dir]).status.success());
}

/// Two branches, each on a directory of its own.
struct Mounted {
    daemon: DaemonProcess,
    points: tempfile::TempDir,
}

const BRANCHES: [&str; 2] = ["attempt-1", "attempt-2"];

impl Mounted {
    fn new() -> Self {
        let daemon = DaemonProcess::start();
        let points = tempfile::tempdir().unwrap();
        for branch in BRANCHES {
            let point = points.path().join(branch);
            fs::create_dir(&point).unwrap();
            assert!(daemon.run(&["branch", "create", branch]).status.success());
            let mount = ["mount", branch, point.to_str().unwrap()];
            assert!(daemon.run(&mount).status.success());
            fs::create_dir(point.join("below")).unwrap();
        }
        Self { daemon, points }
    }

    /// Starts a watcher in this directory.
    fn watch(&self, here: &str, options: &[&str], watched: &[&str]) -> Program {
        let mut command = agentfs(self.daemon.directory.path());
        command
            .env("XDG_RUNTIME_DIR", self.daemon.directory.path())
            .env_remove("LD_PRELOAD")
            .current_dir(self.points.path().join(here))
            .arg("exec")
            .args(options)
            .args(["--", "inotifywait", "-m", "-r"])
            .args(["-e", "create", "--format", "%e %f"])
            .args(watched);
        let program = Program::start(&mut command);
        program.complains("Watches established");
        program
    }

    fn touch(&self, branch: &str, path: &str) {
        let touch = ["fs", "touch", path, "--branch", branch];
        assert!(self.daemon.run(&touch).status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for branch in BRANCHES {
            let point = self.points.path().join(branch);
            self.daemon
                .run(&["umount", "--detach", point.to_str().unwrap()]);
        }
    }
}

/// Checks what the help of `agentfs exec` says.
#[test]
fn a_command_hears_the_branch_that_is_mounted_where_it_is_started() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let one = mounted.watch("attempt-1", &[], &["."]);
    let two = mounted.watch("attempt-2/below", &[], &["."]);
    mounted.touch("attempt-1", "/one");
    mounted.touch("attempt-2", "/below/two");
    assert_eq!(one.line(), "CREATE one");
    assert_eq!(two.line(), "CREATE two");
}

/// Checks that the kernel delivers what the library does not.
#[test]
fn a_command_that_watches_mounts_of_several_branches_hears_all_of_them() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let own = ["--branch", "attempt-1"];
    let watcher = mounted.watch("", &own, &BRANCHES);
    for (branch, path) in [
        ("attempt-1", "/one"),
        ("attempt-2", "/two"),
        ("attempt-1", "/three"),
        ("attempt-2", "/four"),
    ] {
        mounted.touch(branch, path);
        assert_eq!(watcher.line(), format!("CREATE {}", &path[1..]));
    }
}
