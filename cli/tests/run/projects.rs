//! Checks which project a command is about, among several that all have a branch `run-1`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::project::{Project, Said};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

/// Creates a project with the run `run-1`, which made `a`, and beside it another one whose `run-1`
/// made `b`.
fn two() -> (Project, PathBuf) {
    let project = Project::new();
    let other = project.another("other");
    fs::create_dir(other.join("deep")).unwrap();
    let kept = project.run(&["--keep"], "echo first > a");
    assert_eq!(kept.status, Some(0), "{kept:?}");
    let words = ["run", "--keep", "--", "sh", "-c", "echo second > b"];
    let kept = project.say_in(&other, &words);
    assert_eq!(kept.status, Some(0), "{kept:?}");
    (project, other)
}

/// Starts a daemon over a directory at the default socket, as a service does.
fn serve(project: &Project, lower: &Path) -> Program {
    let mut command = project.agentfs();
    command.args(["daemon", "--lower"]).arg(lower);
    let daemon = Program::start(&mut command);
    daemon.complains("listening");
    daemon
}

#[track_caller]
fn assert_untouched(project: &Project) {
    assert_eq!(project.ask(&["branch", "diff", "run-1"]), "A /a\n");
    assert!(!project.has("a") && !project.has("b"));
}

#[test]
fn every_command_is_about_the_project_it_is_called_in() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    let named = other.to_str().unwrap();
    let here = other.join("deep");
    assert_eq!(
        project.ask_in(&here, &["branch", "diff", "run-1"]),
        "A /b\n"
    );
    let cat = ["fs", "cat", "/b", "--branch", "run-1"];
    assert_eq!(project.ask_in(&here, &cat), "second\n");
    let status = project.ask_in(&here, &["status"]);
    assert!(status.contains(&format!("over {named}\n")), "{status}");
    let changes: [&[&str]; 5] = [
        &["fs", "mkdir", "/made", "--branch", "run-1"],
        &["snapshot", "create", "s", "--branch", "run-1"],
        &["branch", "create", "more"],
        &["branch", "apply", "run-1"],
        &["branch", "delete", "run-1"],
    ];
    for words in changes {
        let said = project.ask_in(&here, words);
        assert!(
            said.ends_with(&format!(" of {named}\n")),
            "{words:?}: {said}"
        );
    }
    assert_eq!(fs::read_to_string(other.join("b")).unwrap(), "second\n");
    assert!(other.join("made").is_dir());
    assert_untouched(&project);
}

#[test]
fn programs_are_told_the_project_in_json() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    let commands: [&[&str]; 6] = [
        &["status", "--json"],
        &["fs", "touch", "/t", "--branch", "run-1", "--json"],
        &["snapshot", "create", "s", "--json"],
        &["branch", "apply", "run-1", "--json"],
        &["branch", "delete", "run-1", "--json"],
        &["shutdown", "--json"],
    ];
    for words in commands {
        let said = project.ask_in(&other, words);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            said["project"],
            other.to_str().unwrap(),
            "{words:?}: {said}"
        );
    }
    assert_untouched(&project);
}

#[test]
fn a_branch_is_joined_and_watched_in_the_project_of_the_directory() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let other = project.another("other");
    let mut first = project.start(&["--discard"], "read -r _; ls");
    let mut run = project.agentfs();
    let script = "echo ready; read -r _; ls";
    run.current_dir(&other);
    run.args(["run", "--discard", "--", "sh", "-c", script]);
    let mut second = Program::start(&mut run);
    second.expect("ready");
    let watching = ["watch", "/", "--branch", "run-1", "--count", "1"];
    let mut watch = Program::start(project.agentfs().current_dir(&other).args(watching));
    watch.expect(&format!("of {}", other.display()));
    let join = ["join", "run-1", "--", "sh", "-c", "pwd; : > joined"];
    let joined = project.ask_in(&other, &join);
    assert_eq!(joined, format!("{}\n", other.display()));
    watch.expect("created   /joined");
    watch.finish();
    first.say("go on");
    assert_eq!(first.finish().1, "");
    second.say("go on");
    assert_eq!(second.finish().1, "joined\n");
}

#[test]
fn outside_of_every_project_nothing_is_changed() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    let elsewhere = project.another("elsewhere");
    let changes: [&[&str]; 5] = [
        &["branch", "delete", "run-1"],
        &["branch", "apply", "run-1"],
        &["fs", "touch", "/x", "--branch", "run-1"],
        &["join", "run-1", "--", "true"],
        &["shutdown"],
    ];
    for words in changes {
        let said = project.say_in(&elsewhere, words);
        assert_ne!(said.status, Some(0), "{words:?}: {said:?}");
        for known in [&project.path(), &other] {
            let named = format!("agentfs --project {}", known.display());
            assert!(said.err.contains(&named), "{words:?}: {}", said.err);
        }
    }
    assert_untouched(&project);
    let named = project.path();
    let named = named.to_str().unwrap();
    let delete = ["-C", named, "branch", "delete", "run-1"];
    project.ask_in(&elsewhere, &delete);
    let left = project.ask(&["branch", "list"]);
    assert!(!left.contains("run-1"), "{left}");
    assert_eq!(
        project.ask_in(&other, &["branch", "diff", "run-1"]),
        "A /b\n"
    );
}

#[test]
fn a_refusal_names_the_command_that_works() {
    let project = Project::new();
    let lower = project.another("it's a project");
    let elsewhere = project.another("elsewhere");
    let _daemon = serve(&project, &lower);
    let refused = project.say_in(&elsewhere, &["fs", "mkdir", "/made in"]);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let hints = refused.hints();
    assert_eq!(hints.len(), 1, "{refused:?}");
    project.type_in(&elsewhere, &hints[0]);
    assert_eq!(project.ask_in(&lower, &["fs", "ls"]), "made in/\n");
}

#[test]
fn the_service_of_another_project_is_looked_at_and_not_changed() {
    let project = Project::with(&[("f", "old\n")]);
    let other = project.another("other");
    let _daemon = serve(&project, &project.path());
    let named = project.path();
    let named = named.to_str().unwrap();
    let looked = project.say_in(&other, &["fs", "cat", "/f"]);
    assert_eq!(
        (looked.status, &*looked.out),
        (Some(0), "old\n"),
        "{looked:?}"
    );
    assert!(looked.err.contains(named), "it is said: {}", looked.err);
    let changes: [&[&str]; 4] = [
        &["fs", "rm", "/f"],
        &["branch", "create", "b"],
        &["snapshot", "create", "s"],
        &["shutdown"],
    ];
    for words in changes {
        let said = project.say_in(&other, words);
        assert_eq!(said.status, Some(1), "{words:?}: {said:?}");
        assert!(said.err.contains(named), "{words:?}: {}", said.err);
    }
    assert_eq!(project.ask(&["fs", "ls"]), "f\n");
    let branches = project.ask(&["branch", "list"]);
    assert_eq!(branches.lines().count(), 2, "{branches}");
    project.ask(&["shutdown"]);
}

#[test]
fn a_project_that_is_named_and_has_no_daemon_is_not_another_one() {
    let project = Project::with(&[("f", "old")]);
    let other = project.another("other");
    let _daemon = serve(&project, &project.path());
    let named = other.to_str().unwrap();
    for words in [["fs", "ls"], ["branch", "list"]] {
        let said = project.say(&[&["--project", named][..], &words[..]].concat());
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(said.err.contains(named), "{}", said.err);
    }
}

#[test]
fn on_a_mount_the_project_and_the_branch_follow_from_the_mount() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    let point = project.another("elsewhere/work");
    let mount = ["mount", "run-1", point.to_str().unwrap()];
    project.ask_in(&other, &mount);
    assert_eq!(project.ask_in(&point, &["fs", "ls"]), "b\ndeep/\n");
    let touched = project.ask_in(&point, &["fs", "touch", "/t"]);
    assert!(touched.contains("run-1 of"), "{touched}");
    assert!(point.join("t").exists());
    let unmount = ["umount", point.to_str().unwrap()];
    project.ask_in(&project.beside("elsewhere"), &unmount);
    assert_untouched(&project);
}

#[test]
fn every_hint_at_the_end_of_a_run_works_as_it_is_printed() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    for (from, options) in [
        (other.clone(), vec![]),
        (project.another("else where"), vec!["--lower", "../other"]),
        (project.path(), vec!["--project", "../other"]),
    ] {
        let words = ["run", "--keep", "--branch", "new", "--", "sh", "-c"];
        let script = "echo new > \"$OLDPWD/new\" 2> /dev/null || echo new > new";
        let mut command = project.agentfs();
        command.current_dir(&from).env("OLDPWD", &other);
        command.args(&words[..1]).args(&options);
        command.args(&words[1..]).arg(script);
        let said = Said::by(&mut command);
        assert_eq!(said.status, Some(0), "{said:?}");
        let ours = |hint: &String| hint.contains(" new");
        let hints: Vec<String> = said.hints().into_iter().filter(ours).collect();
        assert_eq!(hints.len(), 3, "{said:?}");
        for hint in &hints {
            project.type_in(&from, hint);
        }
        assert_eq!(fs::read_to_string(other.join("new")).unwrap(), "new\n");
        fs::remove_file(other.join("new")).unwrap();
        let branches = project.ask_in(&other, &["branch", "list"]);
        assert!(!branches.contains("new"), "{branches}");
        let hint = said
            .hints()
            .into_iter()
            .find(|it| it.contains("diff run-1"));
        assert_eq!(project.type_in(&from, &hint.unwrap()), "A /b\n");
    }
    assert_untouched(&project);
}

#[test]
fn a_run_that_has_not_settled_yet_is_not_told_of_as_left_behind() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut first = project.on_terminal("run -- sh -c 'echo new > f'");
    first.expect("M /f");
    let second = project.run(&[], "true");
    assert!(!second.err.contains("run-1"), "{second:?}");
    let third = project.run(&["--branch", "run-1"], "true");
    assert_eq!(third.status, Some(125), "{third:?}");
    let refused = project.say(&["branch", "delete", "run-1"]);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let is_named = refused.err.contains("process ") && refused.err.contains("--force");
    assert!(is_named, "{}", refused.err);
    first.say("apply");
    first.expect("agentfs: applied");
    assert!(first.finish().0.success());
    assert_eq!(project.read("f"), "new\n");
}

#[test]
fn a_branch_that_is_not_settled_is_deleted_when_that_is_forced() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut first = project.on_terminal("run -- sh -c 'echo new > f'");
    first.expect("M /f");
    project.ask(&["branch", "delete", "run-1", "--force"]);
    let mut second = project.start(
        &["--branch", "run-1", "--discard"],
        "echo mine > g; read -r _",
    );
    first.say("apply");
    first.expect("was deleted meanwhile");
    first.finish();
    assert_eq!(project.read("f"), "old");
    assert!(!project.has("g"), "the other run's");
    second.say("go on");
    second.finish();
    let branches = project.ask(&["branch", "list"]);
    assert!(!branches.contains("run-1"), "{branches}");
}

#[test]
fn a_branch_at_work_is_not_deleted() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut run = project.start(&[], "echo $PPID; read -r _");
    let delete = ["branch", "delete", "run-1", "--force"];
    let refused = project.say(&delete);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let named = format!("process {}", run.pid());
    assert!(refused.err.contains(&named), "{}", refused.err);
    run.say("go on");
    run.finish();
}

#[test]
fn a_command_for_another_project_does_not_take_the_branch_of_a_run_along() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    let agentfs = env!("CARGO_BIN_EXE_agentfs");
    let other = other.display();
    let script = format!(
        "{agentfs} -C {other} fs ls; {agentfs} -C {other} fs cat /b --branch run-1; \
         {agentfs} -C {other} exec -- sh -c 'echo $AGENTFS_BRANCH.$AGENTFS_TOKEN.'"
    );
    let said = project.run(&["--branch", "new", "--discard"], &script);
    assert_eq!(said.out, "deep/\nsecond\n..\n", "{said:?}");
}

#[test]
fn all_projects_are_listed_with_their_branches_whether_a_daemon_runs_or_not() {
    if !can_mount() {
        return;
    }
    let (project, other) = two();
    let nowhere = project.another("nowhere");
    project.ask(&["shutdown"]);
    let said = project.ask_in(&nowhere, &["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    let about = |path: &Path| {
        let mut all = listed.as_array().unwrap().iter();
        let found = all.find(|it| it["project"] == path.to_str().unwrap());
        found.unwrap_or_else(|| panic!("{path:?}: {said}"))
    };
    let named = |it: &serde_json::Value| {
        let branches = it["branches"].as_array().unwrap().iter();
        branches
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (stopped, served) = (about(&project.path()), about(&other));
    assert_eq!(named(stopped), ["main", "run-1"]);
    assert_eq!(named(served), ["main", "run-1"]);
    assert!(
        stopped["daemon"].is_null() && stopped["error"].is_null(),
        "{said}"
    );
    assert!(
        served["daemon"].is_u64() && served["branches"][1]["age"].is_u64(),
        "{said}"
    );
    assert!(stopped["size"].as_u64() > Some(0) && served["size"].as_u64() > Some(0));

    // A project that is gone is listed under its old name, and what it has is named.
    fs::remove_dir_all(project.path()).unwrap();
    let text = project.ask_in(&nowhere, &["list"]);
    let gone = format!(
        "{}, which is not there any more: no daemon, ",
        project.path().display()
    );
    assert!(
        text.contains(&gone) && text.matches("run-1").count() == 2,
        "{text}"
    );
}

#[test]
fn a_run_is_listed_while_its_command_runs() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let program = env!("CARGO_BIN_EXE_agentfs");
    let script = format!("{program} list; env -u AGENTFS_SOCKET {program} list --json");
    let said = project.run(&["--discard"], &script);
    let (in_text, in_json) = said.out.split_once('[').unwrap();
    let runs = in_text.matches("process ").count();
    assert_eq!((said.status, runs), (Some(0), 1), "{said:?}");
    assert_eq!(in_json.matches("\"run\":null").count(), 1, "{said:?}");
}
