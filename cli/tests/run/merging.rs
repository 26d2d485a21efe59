//! Checks that several runs of one project lose none of their changes.

use std::fs;
use std::path::Path;

use agentfs_testkit::environment::can_mount;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::project::{Project, Said};

#[test]
fn of_two_runs_that_end_together_one_is_applied_and_the_other_kept() {
    if !can_mount() {
        return;
    }
    for round in 0..5 {
        let project = Project::with(&[("both", "old")]);
        let mut runs = ["one", "two"].map(|name| {
            let script = format!(
                "echo {name} > both; for n in $(seq 20); do echo {name} > {name}-$n; done; \
                 echo written; read -r _"
            );
            let run = project.start(&["--apply"], &script);
            run.expect("written");
            (name, run)
        });
        for (_, run) in &mut runs {
            run.say("go on");
        }
        let ended = runs.map(|(name, mut run)| {
            let (status, _, err) = run.finish();
            (name, status.code(), err)
        });
        let applied: Vec<_> = ended.iter().filter(|it| it.1 == Some(0)).collect();
        let refused: Vec<_> = ended.iter().filter(|it| it.1 == Some(125)).collect();
        let ([(winner, _, said)], [(loser, _, err)]) = (&*applied, &*refused) else {
            panic!("one is applied in round {round}, and not {ended:?}");
        };
        assert!(said.contains("agentfs: applied"), "{said}");
        assert!(err.contains("  /both\n"), "{err}");
        assert_eq!(project.read("both"), format!("{winner}\n"));
        assert!(project.has(&format!("{winner}-20")));
        let exported = Said {
            status: None,
            out: String::new(),
            err: err.clone(),
        };
        let exported = exported.exported();
        let text = |name: &str| fs::read_to_string(exported.join("files").join(name)).unwrap();
        assert_eq!(text("both"), format!("{loser}\n"));
        assert_eq!(text(&format!("{loser}-20")), format!("{loser}\n"));
    }
}

/// Every object of both commits is there, whichever branch is applied second.
#[test]
fn what_two_agents_committed_with_git_is_all_there_when_both_are_applied() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let git = |words: &[&str]| {
        let said = Said::by(project.command("git").args(words));
        assert_eq!(said.status, Some(0), "{words:?}: {said:?}");
        said.out
    };
    git(&["init", "-q"]);
    let names = [("user.name", "agent"), ("user.email", "agent@localhost")];
    for (key, value) in names.into_iter().chain([("gc.auto", "0")]) {
        git(&["config", key, value]);
    }
    project.write("base", "base");
    git(&["add", "."]);
    git(&["commit", "-qm", "base"]);
    let mut commits = Vec::new();
    for agent in ["one", "two"] {
        // There are enough objects that both branches make many of the same directories.
        let script = format!(
            "for n in $(seq 150); do echo {agent} $n > {agent}-$n; done; \
             git add . && git commit -qm {agent} && git rev-parse HEAD"
        );
        let said = project.run(&["--branch", agent, "--keep"], &script);
        assert_eq!(said.status, Some(0), "{said:?}");
        commits.push(said.out.trim().to_owned());
    }
    for agent in ["one", "two"] {
        project.ask(&["branch", "apply", agent, "--force"]);
    }
    let checked = git(&["fsck", "--full", "--connectivity-only", "--dangling"]);
    assert!(!checked.contains("missing"), "{checked}");
    for (commit, agent) in commits.iter().zip(["one", "two"]) {
        // git walks everything that the commit leads to.
        git(&["rev-list", "--objects", "--quiet", commit]);
        git(&["cat-file", "-p", &format!("{commit}:{agent}-150")]);
        assert!(project.has(&format!("{agent}-150")));
    }
}

#[test]
fn what_others_put_into_a_removed_directory_is_named_and_stays() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("dir/old", "old")]);
    project.run(&["--branch", "b", "--keep"], "rm -r dir");
    project.write("dir/theirs", "theirs");
    let refused = project.say(&["branch", "apply", "b"]);
    assert_eq!(refused.status, Some(1));
    assert_eq!(refused.out, "conflict /dir\nconflict /dir/theirs\n");
    let forced = project.ask(&["branch", "apply", "b", "--force"]);
    assert!(forced.contains("kept /dir/theirs\n"), "{forced}");
    assert_eq!(project.read("dir/theirs"), "theirs");
    assert!(!project.has("dir/old"));
    project.run(&["--branch", "c", "--keep"], "rm -r dir; echo file > dir");
    project.write("dir/more", "theirs");
    let refused = project.say(&["branch", "apply", "c", "--force"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("dir"), "{}", refused.err);
    assert_eq!(project.read("dir/more"), "theirs");
}

#[test]
fn an_export_removes_nothing_that_its_branch_never_saw() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("anew/old", "old"), ("gone/old", "old")]);
    let script = "mkdir both; echo b > both/b; rm -r anew; mkdir anew; echo n > anew/n; \
                  rm -r gone; echo written; read -r _";
    let mut run = project.start(&[], script);
    run.expect("written");
    for name in ["both/theirs", "anew/theirs", "gone/theirs"] {
        project.write(name, "theirs");
    }
    run.say("go on");
    let (status, out, err) = run.finish();
    let said = Said {
        status: status.code(),
        out,
        err,
    };
    assert!(!said.err.contains("theirs"), "{}", said.err);
    let exported = said.exported();
    let applied = project.say(&["apply", exported.to_str().unwrap(), "--force"]);
    for name in ["both/theirs", "anew/theirs", "gone/theirs"] {
        assert_eq!(project.read(name), "theirs", "{applied:?}");
    }
    assert_eq!(project.read("both/b"), "b\n", "{applied:?}");
    assert_eq!(project.read("anew/n"), "n\n", "{applied:?}");
    assert!(!project.has("anew/old"), "{applied:?}");
}

/// A small filesystem over a directory, which root mounts.
struct Small<'a>(&'a Path);

impl Drop for Small<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap_or(());
    }
}

#[test]
fn what_does_not_fit_into_the_project_is_exported() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let path = project.path();
    let size = Some(c"size=1m");
    let Ok(()) = mount("agentfs-test", &path, "tmpfs", MountFlags::empty(), size) else {
        // Only root may mount it; fscore's tests report when they leave this out.
        return;
    };
    let small = Small(&path);
    let script = "echo fits > a; head -c 3000000 /dev/zero | tr '\\0' x > b";
    let said = project.run(&["--apply"], script);
    assert_eq!(said.status, Some(125), "{said:?}");
    assert!(said.err.contains("not applied: b: "), "{}", said.err);
    let exported = said.exported();
    let rest = fs::metadata(exported.join("files/b")).unwrap();
    assert_eq!(rest.len(), 3_000_000);
    let fits = fs::read_to_string(exported.join("files/a")).unwrap();
    assert_eq!(fits, "fits\n");
    let names = fs::read_dir(&path).unwrap().count();
    assert_eq!(names, 0, "all or nothing");
    drop(small);
}
