//! Checks that stock programs in a run hear each outside change once.

use std::collections::BTreeSet;
use std::fs;

use agentfs_proto::message::FsMknod;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

use crate::project::Project;
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::connect;

/// The number of changes, which come faster than a program reads.
const BURST: u32 = 100_000;

/// Runs inotifywait, which says at first that it watches, and then prints each change of the
/// directory it is in.
const INOTIFYWAIT: &str = "exec inotifywait -m -r --format '%w%f %e' \
    -e create -e modify -e close_write -e delete -e move -e attrib .";

/// Watches as a program in another language does: by ctypes, with a blocking read.
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

/// Returns the lines up to the one about `end`.
#[track_caller]
fn lines_until(program: &Program, end: &str) -> Vec<String> {
    let next = || Some(program.line()).filter(|line| line != end);
    std::iter::from_fn(next).collect()
}

/// Writes from outside.
fn write(project: &Project, path: &str, line: &str) {
    let mut command = project.agentfs();
    let mut write = Program::start(command.args(["fs", "write", path, "--branch", "b"]));
    write.say(line);
    let (status, _, err) = write.finish();
    assert!(status.success(), "{err}");
}

#[test]
fn a_watcher_hears_a_control_request_once() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("dir/f", "old")]);
    let program = watched(&project);
    write(&project, "/dir/new", "text");
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
    write(&project, "/new", "text");
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

#[test]
fn of_ten_thousand_restored_files_each_is_told() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut expected = BTreeSet::new();
    for folder in 0..100 {
        fs::create_dir(project.path().join(format!("d{folder}"))).unwrap();
        for file in 0..100 {
            let name = format!("d{folder}/f{file}");
            fs::write(project.path().join(&name), "old\n").unwrap();
            expected.insert(name);
        }
    }
    let script = "read -r _
        for folder in d*; do for file in $folder/*; do echo new >>$file; done; echo $folder; done
        exec inotifywait -m -r -e modify,create,moved_to --format '%w%f' .";
    let mut program = project.start(&["--branch", "b", "--discard"], script);
    project.ask(&["snapshot", "create", "before", "--branch", "b"]);
    program.say("go on");
    // The deadline is one of a hundred files at a time.
    for _ in 0..100 {
        assert!(program.line().starts_with('d'));
    }
    program.complains("Watches established");
    project.ask(&["snapshot", "restore", "before", "--branch", "b"]);
    project.ask(&["fs", "touch", "/end", "--branch", "b"]);
    for line in lines_until(&program, "./end") {
        expected.remove(line.trim_start_matches("./"));
    }
    assert!(expected.is_empty(), "never told: {expected:?}");
}

#[test]
fn of_a_hundred_thousand_changes_from_outside_each_is_told_once() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let script = "exec inotifywait -m --format '%e %f' .";
    let program = project.start(&["--branch", "b", "--discard"], script);
    program.complains("Watches established");
    let mut client = connect(&project.socket());
    let make = |number: u32| FsMknod {
        path: format!("/{number}").as_str().into(),
        mode: 0o100_644,
        rdev: 0,
    };
    for number in 0..=BURST {
        client.fs("b", make(number), soon()).unwrap();
    }
    let heard = lines_until(&program, &format!("CREATE {BURST}"));
    let expected: Vec<String> = (0..BURST).map(|it| format!("CREATE {it}")).collect();
    let wrong = heard.iter().zip(&expected).find(|(heard, it)| heard != it);
    assert_eq!((wrong, heard.len()), (None, expected.len()));
}

#[test]
fn a_build_runs_again_when_a_source_is_changed_from_outside() {
    if !can_mount() {
        return;
    }
    let part = |number: u32| format!("int part(void) {{ return {number}; }}");
    let main = "#include <stdio.h>\nint part(void);\n\
        int main(void) { printf(\"part %d\\n\", part()); }\n";
    let project = Project::with(&[
        ("part.c", &part(1)),
        ("main.c", main),
        ("Makefile", "program: main.o part.o\n\t$(CC) -o $@ $^\n"),
    ]);
    // The option -a is needed because entr would leave out what comes soon after a build.
    let script = "ls *.c Makefile >sources
        exec entr -a -n sh -c 'make CC=gcc && ./program' <sources";
    let program = project.start(&["--branch", "b", "--discard"], script);
    program.expect("part 1");
    write(&project, "/part.c", &part(2));
    program.expect("part 2");
    let script = format!("printf '%s' '{}' >part.c", part(3));
    project.ask(&["join", "b", "--", "sh", "-c", &script]);
    program.expect("part 3");
    project.write("main.c", &main.replace("part %d", "other %d"));
    program.expect("other 3");
    assert_eq!(project.read("part.c"), part(1), "the project's own");
    assert!(!project.has("program"));
}
