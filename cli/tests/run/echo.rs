//! Checks `agentfs run --echo`: which events get programs without the preloaded library, and programs with
//! it beside them.

use std::fs;

use agentfs_proto::message::FsMknod;
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::connect;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use rustix::process::Signal;

use crate::project::{Project, Said};

/// Watches its directory by inotify and prints the events. It is linked statically, so nothing can be
/// preloaded into it.
const STATIC_WATCHER: &str = r#"
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>
int main(void) {
    char buffer[4096] __attribute__((aligned(8)));
    int fd = inotify_init1(0);
    if (inotify_add_watch(fd, ".", IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE) < 0) return 1;
    puts("watching");
    fflush(stdout);
    for (;;) {
        ssize_t len = read(fd, buffer, sizeof buffer);
        if (len <= 0) return 1;
        for (char *at = buffer; at < buffer + len;) {
            struct inotify_event *event = (struct inotify_event *)at;
            printf("%s %#x\n", event->name, event->mask);
            at += sizeof *event + event->len;
        }
        fflush(stdout);
    }
}
"#;

/// Returns a command into which the library is not preloaded.
const UNREACHED: &str = "exec env -u LD_PRELOAD inotifywait -m -e create -e modify -e close_write \
    --format '%f %e' .";
/// Returns the same command with the library.
const REACHED: &str = "exec inotifywait -m -e create -e modify -e close_write --format '%f %e' .";

/// The number of changes that follow each other at once.
const BURST: u32 = 200;

/// Returns what inotifywait prints of a file that is made and written once.
fn written(name: &str) -> [String; 3] {
    ["CREATE", "MODIFY", "CLOSE_WRITE,CLOSE"].map(|what| format!("{name} {what}"))
}

/// Starts a script in the branch `b`.
fn start(project: &Project, mode: &str, script: &str) -> Program {
    let options = ["--echo", mode, "--branch", "b", "--discard"];
    project.start(&options, script)
}

/// Starts a script in the branch `b`, in which another program runs.
fn join(project: &Project, script: &str) -> Program {
    let words = ["join", "b", "--", "sh", "-c", script];
    Program::start(project.agentfs().args(words))
}

/// Makes and writes a file, by a control request.
fn write_outside(project: &Project, path: &str) {
    let mut command = project.agentfs();
    let mut write = Program::start(command.args(["fs", "write", path, "--branch", "b"]));
    write.say("text");
    let (status, _, err) = write.finish();
    assert!(status.success(), "{err}");
}

/// Makes and writes a file, through the mount.
fn write_inside(project: &Project, name: &str) {
    let script = format!("echo text > {name}");
    project.ask(&["join", "b", "--", "sh", "-c", &script]);
}

#[track_caller]
fn assert_next(program: &Program, expected: &[String]) {
    let heard: Vec<String> = expected.iter().map(|_| program.line()).collect();
    assert_eq!(heard, expected);
}

/// Returns a counter of the daemon.
fn counter(project: &Project, name: &str) -> u64 {
    let status: serde_json::Value =
        serde_json::from_str(&project.ask(&["status", "--json"])).unwrap();
    let counters = status["counters"].as_array().unwrap();
    let found = counters.iter().find(|it| it["name"] == name);
    found.unwrap()["value"].as_u64().unwrap()
}

/// Lets the daemon find out which programs watch. The daemon looks at the first change, which some
/// programs hear twice.
fn settle(project: &Project, programs: &[&Program]) {
    for name in ["first", "settled"] {
        write_outside(project, &format!("/{name}"));
        for program in programs {
            program.expect(&format!("{name} CLOSE_WRITE"));
        }
    }
}

/// Has these programs hear changes from outside and on the mount: each once, as the next change
/// follows at once. An echo comes some tenths of a millisecond after its change, so a change on the
/// mount may overtake one from outside; among themselves, both keep their order.
fn assert_hear_all_once(project: &Project, programs: &[&Program]) {
    settle(project, programs);
    for round in 0..3 {
        write_outside(project, &format!("/outside{round}"));
        write_inside(project, &format!("inside{round}"));
    }
    for program in programs {
        let heard: Vec<String> = (0..18).map(|_| program.line()).collect();
        for place in ["outside", "inside"] {
            let of_place = heard.iter().filter(|line| line.starts_with(place));
            let expected = (0..3).flat_map(|round| written(&format!("{place}{round}")));
            assert!(
                of_place.eq(expected.collect::<Vec<_>>().iter()),
                "{heard:?}"
            );
        }
    }
}

#[test]
fn by_default_a_program_without_the_library_hears_each_change_once_and_so_do_others() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let unreached = start(&project, "auto", UNREACHED);
    unreached.complains("Watches established");
    let reached = join(&project, REACHED);
    reached.complains("Watches established");
    assert_hear_all_once(&project, &[&unreached, &reached]);
    assert!(counter(&project, "echoes") > 0);
    let doctor = project.ask(&["doctor"]);
    let name = format!("inotifywait ({}", unreached_pid(&project));
    assert!(doctor.contains(&name), "{name}: {doctor}");
}

/// Returns the process that `agentfs status` shows as the only one without the library.
fn unreached_pid(project: &Project) -> u64 {
    let status: serde_json::Value =
        serde_json::from_str(&project.ask(&["status", "--json"])).unwrap();
    let listeners = status["listeners_without_shim"].as_array().unwrap();
    assert_eq!(listeners.len(), 1, "{listeners:?}");
    listeners[0]["pid"].as_u64().unwrap()
}

#[test]
fn by_default_nothing_is_echoed_where_all_programs_have_the_library() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let reached = start(&project, "auto", REACHED);
    reached.complains("Watches established");
    assert_hear_all_once(&project, &[&reached]);
    assert_eq!(counter(&project, "echoes"), 0);
}

#[test]
fn a_static_program_hears_a_change_once() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("watcher.c", STATIC_WATCHER)]);
    let mut gcc = project.command("gcc");
    let built = Said::by(gcc.args(["-static", "-o", "watcher", "watcher.c"]));
    assert_eq!(built.status, Some(0), "{built:?}");
    let advice = project.ask(&["doctor", "./watcher"]);
    assert!(advice.contains("linked statically"), "{advice}");
    assert!(advice.contains("the kernel notifies it"), "{advice}");
    let program = start(&project, "auto", "exec ./watcher");
    program.expect("watching");
    for name in ["first", "settled"] {
        write_outside(&project, &format!("/{name}"));
        program.expect(&format!("{name} 0x8"));
    }
    write_outside(&project, "/new");
    write_outside(&project, "/end");
    for expected in ["new 0x100", "new 0x2", "new 0x8", "end 0x100"] {
        assert_eq!(program.line(), expected);
    }
}

#[test]
fn with_always_the_kernel_tells_all_programs_and_each_hears_once() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let reached = start(&project, "always", REACHED);
    reached.complains("Watches established");
    let unreached = join(&project, UNREACHED);
    unreached.complains("Watches established");
    assert_hear_all_once(&project, &[&reached, &unreached]);
    // These are the files from outside, with three steps each.
    assert!(counter(&project, "echoes") >= 9);
}

#[test]
fn with_never_a_program_without_the_library_hears_only_of_changes_on_the_mount() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let unreached = start(&project, "never", UNREACHED);
    unreached.complains("Watches established");
    let reached = join(&project, REACHED);
    reached.complains("Watches established");
    for round in 0..3 {
        write_outside(&project, &format!("/outside{round}"));
        write_inside(&project, &format!("inside{round}"));
    }
    for round in 0..3 {
        assert_next(&reached, &written(&format!("outside{round}")));
        assert_next(&reached, &written(&format!("inside{round}")));
        assert_next(&unreached, &written(&format!("inside{round}")));
    }
    assert_eq!(counter(&project, "echoes"), 0);
}

#[test]
fn who_has_the_library_misses_nothing_when_the_other_program_ends() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let reached = start(&project, "auto", REACHED);
    reached.complains("Watches established");
    for _ in 0..5 {
        let mut unreached = join(&project, UNREACHED);
        unreached.complains("Watches established");
        settle(&project, &[&unreached, &reached]);
        unreached.signal(Signal::TERM);
        unreached.finish();
        write_outside(&project, "/new");
        assert_next(&reached, &written("new"));
        for name in ["first", "settled", "new"] {
            project.ask(&["fs", "rm", name, "--branch", "b"]);
        }
    }
}

/// When the other program ends, the daemon changes from echoes to records. No record of a change may
/// overtake the echo of one before it.
#[test]
fn a_burst_is_heard_in_order_while_the_other_program_ends() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let reached = start(&project, "auto", REACHED);
    reached.complains("Watches established");
    let mut client = connect(&project.socket());
    for round in 0..5 {
        let mut unreached = join(&project, UNREACHED);
        unreached.complains("Watches established");
        settle(&project, &[&unreached, &reached]);
        unreached.signal(Signal::TERM);
        unreached.finish();
        let names = || (0..BURST).map(|number| format!("{round}-{number}"));
        for name in names() {
            let make = FsMknod {
                path: format!("/{name}").as_str().into(),
                mode: 0o100_644,
                rdev: 0,
            };
            client.fs("b", make, soon()).unwrap();
        }
        let expected: Vec<String> = names().map(|name| format!("{name} CREATE")).collect();
        assert_next(&reached, &expected);
        for name in ["first", "settled"] {
            project.ask(&["fs", "rm", name, "--branch", "b"]);
        }
    }
}

#[test]
fn a_file_that_the_host_puts_into_the_project_is_echoed_once() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let unreached = start(&project, "auto", UNREACHED);
    unreached.complains("Watches established");
    // The file is written as a whole, so that there is one change.
    let put = |name: &str| {
        fs::write(project.beside(name), "by the host").unwrap();
        fs::rename(project.beside(name), project.path().join(name)).unwrap();
    };
    settle(&project, &[&unreached]);
    put("new");
    let [created, _, closed] = written("new");
    assert_next(&unreached, &[created, closed]);
    write_inside(&project, "end");
    assert_next(&unreached, &written("end"));
}
