//! Checks what becomes of the changes of a run.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::project::{Project, Said};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

/// Changes of every kind.
const CHANGES: &str = "printf new > made; printf changed > file; rm gone; mv from to; \
    mkdir dir; printf in > dir/in; ln -s made link; chmod 755 tool; rm -r tree; \
    mv moving moved; printf later >> moved/inner";

fn changed() -> Project {
    Project::with(&[
        ("file", "old"),
        ("gone", ""),
        ("from", "renamed"),
        ("tool", "#!"),
        ("tree/a/b", ""),
        ("moving/inner", "inner "),
        ("same", "same"),
    ])
}

/// Returns every path with its kind, permissions and content.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, all: &mut Vec<String>) {
        let mut entries: Vec<_> = fs::read_dir(at)
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            let found = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display();
            if found.is_dir() {
                all.push(format!("{name}/ {:o}", found.mode()));
                walk(root, &path, all);
            } else if found.is_symlink() {
                all.push(format!(
                    "{name} -> {}",
                    fs::read_link(&path).unwrap().display()
                ));
            } else {
                let text = fs::read_to_string(&path).unwrap();
                all.push(format!("{name} {:o} {text}", found.mode()));
            }
        }
    }
    let mut all = Vec::new();
    walk(root, root, &mut all);
    all
}

/// Returns the outcome of the changes when the kernel makes them.
fn expected() -> Vec<String> {
    let project = changed();
    let said = Said::by(project.command("sh").args(["-c", CHANGES]));
    assert_eq!(said.status, Some(0), "{said:?}");
    tree(&project.path())
}

#[test]
fn apply_brings_exactly_the_changes() {
    if !can_mount() {
        return;
    }
    let project = changed();
    let said = project.run(&["--apply"], CHANGES);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(tree(&project.path()), expected());
    let branches = project.ask(&["branch", "list"]);
    assert!(
        !branches.contains("run-1"),
        "it is not needed any more: {branches}"
    );
}

#[test]
fn without_an_option_the_changes_are_exported_and_can_be_applied_later() {
    if !can_mount() {
        return;
    }
    let project = changed();
    let before = tree(&project.path());
    let said = project.run(&[], CHANGES);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(tree(&project.path()), before);
    let exported = said.exported();
    assert!(exported.starts_with(project.beside("home")), "{exported:?}");
    let command = format!("agentfs apply {}", exported.display());
    assert!(said.err.contains(&command), "{}", said.err);
    let exported = exported.to_str().unwrap();
    let dry = project.ask(&["apply", exported, "--dry-run"]);
    assert!(dry.contains("D /gone"), "{dry}");
    assert_eq!(tree(&project.path()), before);
    project.ask(&["apply", exported]);
    assert_eq!(tree(&project.path()), expected());
}

#[test]
fn an_export_goes_where_it_is_told() {
    if !can_mount() {
        return;
    }
    let project = changed();
    let said = project.run(&["--export", "../out"], CHANGES);
    assert_eq!(said.status, Some(0), "{said:?}");
    let out = project.beside("out");
    assert_eq!(fs::read_to_string(out.join("files/made")).unwrap(), "new");
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o077, 0);
    let again = project.run(&["--export", "../out"], "printf x > x");
    assert_eq!(again.status, Some(125), "what is there is not overwritten");
    assert!(
        again.err.ends_with("agentfs branch export run-1\n"),
        "{}",
        again.err
    );
    let kept = project.run(&["--branch", "run-1", "--export", "../out2"], "true");
    assert_eq!(kept.status, Some(0), "{kept:?}");
    let is_there = project.beside("out2/files/x").exists();
    assert!(is_there, "nothing was lost: {again:?}, {kept:?}");
}

#[test]
fn conflicts_are_refused_and_listed_and_nothing_is_lost() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("both", "old"), ("mine", "old")]);
    let script = "cat both mine; echo branch > both; echo branch > mine; echo done; read -r _";
    let mut run = project.start(&["--apply"], script);
    run.expect("done");
    project.write("both", "host, and longer");
    run.say("go on");
    let (status, _, err) = run.finish();
    assert_eq!(status.code(), Some(125), "{err}");
    assert!(err.contains("nothing was applied"), "{err}");
    assert!(err.contains("  /both\n"), "{err}");
    assert!(!err.contains("  /mine\n"), "{err}");
    assert_eq!(project.read("both"), "host, and longer");
    assert_eq!(project.read("mine"), "old");

    let mut lines = err.lines();
    let exported = lines.find_map(|line| line.strip_prefix("agentfs: exported to "));
    let exported = exported.unwrap();
    let refused = project.say(&["apply", exported]);
    assert_eq!(refused.status, Some(1));
    assert_eq!(refused.out, "conflict /both\n");
    project.ask(&["apply", exported, "--force"]);
    assert_eq!(project.read("both"), "branch\n");
    assert_eq!(project.read("mine"), "branch\n");
}

#[test]
fn what_the_project_changed_after_an_export_is_a_conflict() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old"), ("g", "old")]);
    let said = project.run(&[], "echo branch > f; rm g; echo made > h");
    let exported = said.exported();
    let exported = exported.to_str().unwrap();
    project.write("f", "host, and longer");
    project.write("h", "host");
    let refused = project.say(&["apply", exported]);
    assert_eq!(refused.out, "conflict /f\nconflict /h\n");
    assert_eq!(project.read("f"), "host, and longer");
    assert!(project.has("g"));
}

#[test]
fn changes_are_kept_in_the_branch_when_asked() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let said = project.run(&["--branch", "b", "--keep"], "echo new > f");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(project.ask(&["branch", "diff", "b"]), "M /f\n");
    assert_eq!(project.ask(&["fs", "cat", "/f", "--branch", "b"]), "new\n");
    project.ask(&["branch", "apply", "b"]);
    assert_eq!(project.read("f"), "new\n");
    project.ask(&["branch", "delete", "b"]);
}

#[test]
fn on_a_terminal_it_is_asked_what_becomes_of_the_changes() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut terminal = project.on_terminal("run -- sh -c 'echo new > f'");
    terminal.expect("M /f");
    terminal.say("what");
    terminal.say("apply");
    terminal.expect("agentfs: applied");
    assert!(terminal.finish().0.success());
    assert_eq!(project.read("f"), "new\n");
}

#[test]
fn an_interrupted_question_exports() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut terminal = project.on_terminal("run -- sh -c 'echo new > f'");
    terminal.expect("M /f");
    // The terminal sends SIGINT for this character.
    terminal.say("\x03");
    terminal.expect("exported to");
    assert!(terminal.finish().0.success());
    assert_eq!(project.read("f"), "old");
}

#[test]
fn programs_are_told_in_json() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut command = project.agentfs();
    command.args(["--json", "run", "--", "sh", "-c", "echo new > f"]);
    let said = Said::by(&mut command);
    let report: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(report["outcome"], "exported");
    assert_eq!(report["changes"][0]["path"], "/f");
    assert!(Path::new(report["directory"].as_str().unwrap()).is_dir());
}

#[test]
fn processes_that_stay_behind_keep_their_branch() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let fifo = project.beside("fifo");
    let script = format!(
        "mkfifo {0}; echo new > f; (read -r _ < {0}; echo late > g; echo late) > /dev/null 2>&1 < /dev/null &",
        fifo.display()
    );
    let said = project.run(&["--apply"], &script);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(
        said.err.contains("still is at work in run-1"),
        "{}",
        said.err
    );
    assert_eq!(project.read("f"), "new\n");
    let mut daemon = project.start(&["--branch", "watcher"], "read -r _");
    let watching = ["watch", "--branch", "run-1", "/g", "--count", "1"];
    let mut watch = Program::start(project.agentfs().args(watching));
    watch.expect("watching /g");
    fs::write(&fifo, "go on\n").unwrap();
    watch.expect("created   /g");
    watch.finish();
    project.wait_unmounted("run-1");
    daemon.say("go on");
    daemon.finish();
    let diff = project.ask(&["branch", "diff", "run-1"]);
    assert!(diff.contains("/g"), "{diff}");
    assert!(!project.has("g"));
    project.ask(&["branch", "apply", "run-1"]);
    project.ask(&["branch", "delete", "run-1"]);
}
