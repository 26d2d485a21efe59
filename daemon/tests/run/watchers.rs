//! Stock programs in a session: each hears once what is changed from outside.

use std::time::{Duration, Instant};

use crate::program::{Program, can_mount};
use crate::project::Project;

/// Prints each change of the directory it is in, and at the first makes known that it watches.
const INOTIFYWAIT: &str = "exec inotifywait -m -r --format '%w%f %e' \
    -e create -e modify -e close_write -e delete -e move -e attrib .";

/// As a program in another language does: by ctypes, with a blocking read.
const PYTHON: &str = "exec python3 -u -c '
import ctypes, os, struct
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(0)
libc.inotify_add_watch(fd, b\".\", 0x100 | 0x2 | 0x8 | 0x200)
print(\"watching\")
while True:
    data = os.read(fd, 4096)
    while data:
        wd, mask, cookie, size = struct.unpack_from(\"iIII\", data)
        name = data[16:16 + size].rstrip(b\"\\0\").decode()
        print(name, hex(mask))
        data = data[16 + size:]
'";

fn watched(project: &Project) -> Program {
    let program = project.start(&["--branch", "b", "--discard"], INOTIFYWAIT);
    program.complains("Watches established");
    program
}

/// The lines up to the one about `end`.
#[track_caller]
fn lines_until(program: &Program, end: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let line = program.line();
        if line == end {
            return lines;
        }
        lines.push(line);
    }
    panic!("{end:?} in time, and not only {lines:?}");
}

fn write(project: &Project, path: &str) {
    let mut command = project.agentfs();
    let mut write = Program::start(command.args(["fs", "write", path, "--branch", "b"]));
    write.say("text");
    assert!(write.finish().0.success());
}

#[test]
fn a_watcher_hears_a_control_request_once() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("dir/f", "old")]);
    let program = watched(&project);
    write(&project, "/dir/new");
    project.ask(&["fs", "touch", "/end", "--branch", "b"]);
    let heard = [
        "./dir/new CREATE",
        "./dir/new MODIFY",
        "./dir/new CLOSE_WRITE,CLOSE",
    ];
    assert_eq!(lines_until(&program, "./end CREATE"), heard);
}

#[test]
fn a_watcher_hears_a_joined_process_once() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("dir/f", "old")]);
    let program = watched(&project);
    let script = "echo text > dir/new; mv dir/new dir/newer; rm dir/f; : > end";
    project.ask(&["join", "b", "--", "sh", "-c", script]);
    let heard = [
        "./dir/new CREATE",
        "./dir/new MODIFY",
        "./dir/new CLOSE_WRITE,CLOSE",
        "./dir/new MOVED_FROM",
        "./dir/newer MOVED_TO",
        "./dir/f DELETE",
    ];
    assert_eq!(lines_until(&program, "./end CREATE"), heard);
}

#[test]
fn a_watcher_hears_the_restore_of_a_snapshot() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("dir/f", "old")]);
    let program = watched(&project);
    project.ask(&["snapshot", "create", "before", "--branch", "b"]);
    project.ask(&[
        "join",
        "b",
        "--",
        "sh",
        "-c",
        "rm dir/f; : > dir/made; : > end",
    ]);
    lines_until(&program, "./end CREATE");
    project.ask(&["snapshot", "restore", "before", "--branch", "b"]);
    project.ask(&["fs", "touch", "/end2", "--branch", "b"]);
    let heard = lines_until(&program, "./end2 CREATE");
    for line in ["./dir/f CREATE", "./dir/made DELETE", "./end DELETE"] {
        let times = heard.iter().filter(|it| *it == line).count();
        assert_eq!(times, 1, "{line}: {heard:?}");
    }
}

#[test]
fn a_watcher_hears_an_edit_of_the_project_itself() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("dir/f", "old")]);
    let program = watched(&project);
    project.write("dir/g", "by the host");
    program.expect("./dir/g CREATE");
    program.expect("./dir/g CLOSE_WRITE,CLOSE");
}

#[test]
fn a_watcher_of_another_run_hears_nothing() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let program = watched(&project);
    let other = project.run(&["--discard"], "echo text > f; : > g");
    assert_eq!(other.status, Some(0), "{other:?}");
    project.ask(&["fs", "touch", "/end", "--branch", "b"]);
    assert_eq!(lines_until(&program, "./end CREATE"), Vec::<String>::new());
}

#[test]
fn a_python_program_hears_a_control_request_once() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let program = project.start(&["--branch", "b", "--discard"], PYTHON);
    program.expect("watching");
    write(&project, "/new");
    project.ask(&["fs", "rm", "/f", "--branch", "b"]);
    let heard = ["new 0x100", "new 0x2", "new 0x8"];
    assert_eq!(lines_until(&program, "f 0x200"), heard);
}

#[test]
fn tail_follows_what_is_written_from_outside() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("log", "first\n")]);
    let program = project.start(
        &["--branch", "b", "--discard"],
        "exec tail -n +1 -s 0.05 -F log",
    );
    program.expect("first");
    let mut command = project.agentfs();
    let append = ["fs", "write", "--append", "/log", "--branch", "b"];
    let mut write = Program::start(command.args(append));
    write.say("second");
    assert!(write.finish().0.success());
    assert_eq!(program.line(), "second");
}
