//! Checks that many runs can end together.

use crate::project::Project;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

const RUNS: usize = 40;

/// Starts this many runs, each of which makes a file of its own, and ends all of them at once.
fn end_together(project: &Project, options: impl Fn(usize) -> Vec<String>) {
    let mut runs: Vec<Program> = (0..RUNS)
        .map(|number| {
            let options = options(number);
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let script = format!("read -r _; echo text of {number} > file-{number}");
            project.start(&options, &script)
        })
        .collect();
    runs.iter_mut().for_each(|run| run.say("go on"));
    for (number, run) in runs.iter_mut().enumerate() {
        let (status, out, err) = run.finish();
        assert_eq!(status.code(), Some(0), "run {number}: {out} {err}");
    }
}

#[test]
fn forty_runs_that_end_together_are_all_applied() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("there", "before")]);
    end_together(&project, |_| vec!["--apply".to_owned()]);
    for number in 0..RUNS {
        let text = project.read(&format!("file-{number}"));
        assert_eq!(text, format!("text of {number}\n"));
    }
}

#[test]
fn forty_runs_that_end_together_are_all_exported() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("there", "before")]);
    let directory = |number| project.beside(&format!("out-{number}"));
    end_together(&project, |number| {
        let directory = directory(number).display().to_string();
        vec!["--export".to_owned(), directory]
    });
    for number in 0..RUNS {
        let file = directory(number).join(format!("files/file-{number}"));
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text, format!("text of {number}\n"));
        assert!(!project.has(&format!("file-{number}")));
    }
}
