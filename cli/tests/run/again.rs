//! Checks `agentfs apply DIR` for a second time, or after the project was changed: an object that was moved
//! is distinguished from another one that has its name.

use std::fs;

use crate::project::{Project, Said};
use agentfs_testkit::environment::can_mount;

fn shell(project: &Project, script: &str) {
    let said = Said::by(project.command("sh").args(["-c", script]));
    assert_eq!(said.status, Some(0), "{script}: {said:?}");
}

#[test]
fn another_object_with_the_new_name_is_a_conflict() {
    if !can_mount() {
        return;
    }
    for (run, host) in [
        ("mv a b", "rm a; echo other > b"),
        ("mv a b", "rm a; echo mine > b"),
        ("mv d e", "rm -r d; mkdir e; echo x > e/z"),
        ("mv a b", "echo other > b"),
    ] {
        let project = Project::with(&[("a", "olda\n"), ("d/f", "")]);
        let exported = project.run(&[], run).exported();
        shell(&project, host);
        let said = project.say(&["apply", exported.to_str().unwrap()]);
        assert_eq!(said.status, Some(1), "{host}: {said:?}");
        assert!(said.out.starts_with("conflict /"), "{host}: {said:?}");
    }
}

#[test]
fn what_was_moved_and_edited_is_applied_already() {
    if !can_mount() {
        return;
    }
    for (run, host) in [
        ("mv a b", "echo edited >> b"),
        ("mv a b; echo more >> b", ""),
        ("mv a b; chmod 700 b", ""),
        ("mv d e; echo more >> e/f; mkdir d", "echo x > e/z"),
        ("rm b2; mv a b2", ""),
    ] {
        let project = Project::with(&[("a", "olda\n"), ("d/f", "in"), ("b2", "other")]);
        let exported = project.run(&[], run).exported();
        let exported = exported.to_str().unwrap();
        project.ask(&["apply", exported]);
        shell(&project, host);
        let again = project.say(&["apply", exported]);
        assert_eq!(
            (again.status, &*again.out),
            (Some(0), "already applied\n"),
            "{run}: {again:?}"
        );
    }
}

#[test]
fn force_renames_nothing_but_what_the_branch_renamed() {
    if !can_mount() {
        return;
    }
    for (run, new_name) in [("mv a b; echo new > a", "b"), ("mv a c; echo new > a", "c")] {
        let project = Project::with(&[("a", "olda\n"), ("c", "oldc\n"), ("f", "old\n")]);
        let exported = project
            .run(&[], &format!("{run}; echo made > g"))
            .exported();
        let exported = exported.to_str().unwrap();
        project.ask(&["apply", exported]);
        // The file is saved as many editors do it.
        shell(
            &project,
            &format!("rm g; echo 'olda, edited' > t; mv t {new_name}"),
        );
        let refused = project.say(&["apply", exported]);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        let forced = project.say(&["apply", exported, "--force"]);
        assert_eq!(forced.status, Some(1), "{forced:?}");
        assert_eq!(project.read("a"), "new\n", "{forced:?}");
        assert_eq!(project.read(new_name), "olda, edited\n", "{forced:?}");
        assert_eq!(
            project.read("g"),
            "made\n",
            "the others are made: {forced:?}"
        );
        assert!(forced.err.trim_end().ends_with("--force"), "{forced:?}");
    }
}

#[test]
fn names_that_changed_places_stay_so_in_a_copy_of_the_project() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("a", "is a"), ("b", "is b, and longer")]);
    shell(&project, "echo 1 > s; echo 2 > t; touch -r s t");
    for (run, is_told) in [
        ("mv a x; mv b a; mv x b", true),
        ("mv s x; mv t s; mv x t", false),
    ] {
        shell(&project, "rm -rf ../copy; cp -a . ../copy");
        let exported = project.run(&[], run).exported();
        let exported = exported.to_str().unwrap();
        let copy = project.beside("copy");
        let read = |name: &str| fs::read_to_string(copy.join(name)).unwrap();
        for _ in 0..2 {
            let said = project.say(&["apply", exported, "--to", copy.to_str().unwrap()]);
            assert_eq!(said.status, Some(i32::from(!is_told)), "{said:?}");
            if is_told {
                assert_eq!(
                    (read("a"), read("b")),
                    ("is b, and longer".into(), "is a".into())
                );
            } else {
                assert_eq!((read("s"), read("t")), ("1\n".into(), "2\n".into()));
            }
        }
    }
}
