//! Checks runs in frozen branches: nothing that others change in the project shows in them.

use std::fs;

use agentfs_testkit::environment::can_mount;

use crate::project::Project;

#[test]
fn a_frozen_run_sees_the_project_as_it_was_at_its_start() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n"), ("dir/gone", "old\n"), ("mode", "old\n")]);
    let path = |name: &str| project.path().join(name);
    let script = "read go; cat f dir/gone mode; ls; echo mine > mode; echo mine > own; echo end";
    let mut run = project.start(&["--frozen", "--branch", "calm", "--keep"], script);
    fs::write(path("f~"), "new\n").unwrap();
    fs::rename(path("f~"), path("f")).unwrap();
    fs::remove_dir_all(path("dir")).unwrap();
    fs::write(path("mode"), "new\n").unwrap();
    fs::write(path("added"), "new\n").unwrap();
    run.say("go");
    for line in ["old", "old", "old", "dir", "f", "mode", "end"] {
        run.expect(line);
    }
    let (status, _, errors) = run.finish();
    assert_eq!(status.code(), Some(0), "{errors}");
    let listed = project.ask(&["branch", "list"]);
    let of = |name: &str| listed.lines().find(|line| line.contains(name)).unwrap();
    assert!(of("calm").contains("frozen"), "{listed}");
    assert!(of("main").contains("live"), "{listed}");
    assert_eq!(
        project.ask(&["branch", "diff", "calm"]),
        "A /own\nM /mode\n"
    );

    // The host has changed one of the two files as well.
    let refused = project.say(&["branch", "apply", "calm"]);
    assert!(refused.out.contains("conflict /mode"), "{refused:?}");
    project.ask(&["branch", "apply", "calm", "--force"]);
    assert_eq!(fs::read_to_string(path("mode")).unwrap(), "mine\n");
    assert_eq!(fs::read_to_string(path("f")).unwrap(), "new\n");
    assert_eq!(project.ask(&["branch", "diff", "calm"]), "");

    // It stays frozen.
    let again = project.run(
        &["--frozen", "--branch", "calm", "--discard"],
        "cat f dir/gone",
    );
    assert_eq!(
        (again.status, &*again.out),
        (Some(0), "old\nold\n"),
        "{again:?}"
    );
    project.ask(&["branch", "create", "lively"]);
    let refused = project.run(&["--branch", "lively", "--frozen"], "true");
    assert!(refused.err.contains("is live"), "{refused:?}");
}

#[test]
fn a_project_says_that_its_branches_are_frozen_and_what_they_leave_out() {
    if !can_mount() {
        return;
    }
    let settings = r#"{"frozen": true, "exclude": ["target/"]}"#;
    let project = Project::with(&[
        ("f", "old\n"),
        ("target/out", "built\n"),
        (".agentfs.json", settings),
    ]);
    let script = "read go; cat f; ls; mkdir target; echo new > target/out; echo end";
    let mut run = project.start(&["--branch", "calm", "--keep"], script);
    project.write("f", "new\n");
    run.say("go");
    for line in ["old", "f", "end"] {
        run.expect(line);
    }
    let (status, _, errors) = run.finish();
    assert_eq!(status.code(), Some(0), "{errors}");
    let status = project.ask(&["status"]);
    let line = "new branches are frozen and leave out target/ (.agentfs.json)";
    assert!(status.contains(line), "{status}");
    let live = project.run(&["--live", "--discard"], "cat f target/out");
    assert_eq!(
        (live.status, &*live.out),
        (Some(0), "new\nbuilt\n"),
        "{live:?}"
    );

    // What the branch never saw is not overwritten.
    assert_eq!(
        project.ask(&["branch", "diff", "calm"]),
        "A /target/\nA /target/out\n"
    );
    let refused = project.say(&["branch", "apply", "calm"]);
    assert!(refused.out.contains("conflict /target/out"), "{refused:?}");
    assert_eq!(project.read("target/out"), "built\n");

    let refused = project.run(&["--live", "--exclude", "f"], "true");
    assert!(refused.err.contains("--frozen"), "{refused:?}");
    let refused = project.run(&["--exclude", "../f"], "true");
    assert!(refused.err.contains("is no pattern"), "{refused:?}");
    project.write(".agentfs.json", "{");
    let refused = project.run(&[], "true");
    assert!(refused.err.contains(".agentfs.json"), "{refused:?}");
}
