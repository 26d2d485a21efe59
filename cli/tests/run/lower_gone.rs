//! Checks every command about kept work whose project is not at its path any more: moved, replaced,
//! deleted, or on a filesystem that was unmounted. The work stays readable and can be exported, and
//! nothing is written to the directory that is at the path now.

use std::fs;
use std::path::Path;
use std::process::Command;

use agentfs_testkit::environment::can_mount;

use crate::project::{Project, Said};

#[track_caller]
fn succeeds(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// What the other directory has that is at the path afterwards.
const OTHER: &str = "of another directory\n";

/// A project with kept work, and the socket of its daemon.
struct Kept {
    project: Project,
    socket: String,
}

impl Kept {
    /// Makes a project, as a filesystem of its own if that is wanted.
    fn new(is_mounted: bool) -> Self {
        let project = Project::new();
        if is_mounted {
            project.write("f", OTHER);
            succeeds(
                Command::new("mount")
                    .args(["-t", "tmpfs", "none"])
                    .arg(project.path()),
            );
        }
        project.write("f", "old\n");
        project.write("untouched", "of the host\n");
        let said = project.run(&["--keep"], "echo made > made; echo mine > f");
        assert_eq!(said.status, Some(0), "{said:?}");
        let socket = project.socket().into_os_string().into_string().unwrap();
        Self { project, socket }
    }

    /// Runs `agentfs` about the daemon beside the project, because the project may be gone.
    fn say(&self, words: &[&str]) -> Said {
        let words = [&["--socket", &self.socket], words].concat();
        self.project.say_in(self.project.directory(), &words)
    }

    #[track_caller]
    fn ask(&self, words: &[&str]) -> String {
        let said = self.say(words);
        assert_eq!(said.status, Some(0), "{words:?}: {said:?}");
        said.out
    }

    #[track_caller]
    fn cat(&self, path: &str) -> String {
        self.ask(&["fs", "cat", path, "--branch", "run-1"])
    }

    /// Checks what is said of the place, that the work is read and exported, and that it is applied
    /// nowhere.
    #[track_caller]
    fn is_kept_and_not_applied(&self, place: &str) {
        let path = self.project.path();
        let before = listing(&path);
        let status = self.ask(&["status"]);
        let about = format!("{}, which {place}", path.display());
        assert!(status.contains(&about), "{about}: {status}");
        assert_eq!(self.cat("/made"), "made\n");
        assert_eq!(self.cat("/f"), "mine\n");
        let diff = self.ask(&["branch", "diff", "run-1"]);
        assert!(
            diff.contains(" /made\n") && diff.contains(" /f\n"),
            "{diff}"
        );
        let refused = self.say(&["branch", "apply", "run-1"]);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        let why = format!("the directory that was at {}", path.display());
        assert!(refused.err.contains(&why), "{refused:?}");
        assert!(refused.err.contains("nothing is applied"), "{refused:?}");
        let exported = self.project.beside("exported");
        self.ask(&["branch", "export", "run-1", exported.to_str().unwrap()]);
        let file = |name: &str| fs::read_to_string(exported.join("files").join(name)).unwrap();
        assert_eq!(
            (file("made"), file("f")),
            ("made\n".into(), "mine\n".into())
        );
        assert_eq!(listing(&path), before, "nothing is written at the path");
    }

    /// Checks that a new run at the path has what is there now, and names the earlier work.
    #[track_caller]
    fn is_named_by_a_run(&self) {
        let said = self.project.run(&["--discard"], "cat f; ls");
        assert_eq!(said.status, Some(0), "{said:?}");
        assert_eq!(said.out, format!("{OTHER}f\n"), "{said:?}");
        let before = format!("that was at {} before", self.project.path().display());
        assert!(said.err.contains(&before), "{said:?}");
    }
}

fn listing(path: &Path) -> Option<Vec<(String, String)>> {
    let entries = fs::read_dir(path).ok()?;
    let mut all: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let content = fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), content)
        })
        .collect();
    all.sort();
    Some(all)
}

#[test]
fn of_a_project_that_was_moved() {
    if !can_mount() {
        return;
    }
    let kept = Kept::new(false);
    let moved = kept.project.beside("moved");
    fs::rename(kept.project.path(), &moved).unwrap();
    let before = listing(&moved);
    kept.is_kept_and_not_applied(&format!("is at {} now", moved.display()));
    assert_eq!(kept.cat("/untouched"), "of the host\n");
    assert_eq!(listing(&moved), before);
    // Where it is now, it is a project of its own.
    let run = ["run", "--discard", "--", "cat", "f"];
    let said = kept.project.say_in(&moved, &run);
    assert_eq!(said.out, "old\n", "{said:?}");
    let at = format!("that was at {} before", kept.project.path().display());
    assert!(said.err.contains(&at), "{said:?}");
    fs::rename(&moved, kept.project.path()).unwrap();
    kept.ask(&["branch", "apply", "run-1"]);
    assert_eq!(kept.project.read("f"), "mine\n");
}

#[test]
fn of_a_project_that_was_replaced() {
    if !can_mount() {
        return;
    }
    let kept = Kept::new(false);
    let moved = kept.project.beside("moved");
    fs::rename(kept.project.path(), &moved).unwrap();
    kept.project.write("f", OTHER);
    kept.is_kept_and_not_applied(&format!("is at {} now", moved.display()));
    assert_eq!(kept.cat("/untouched"), "of the host\n");
    kept.is_named_by_a_run();
}

#[test]
fn of_a_project_that_was_deleted() {
    if !can_mount() {
        return;
    }
    let kept = Kept::new(false);
    fs::remove_dir_all(kept.project.path()).unwrap();
    kept.is_kept_and_not_applied("was deleted");
    let gone = kept.say(&["fs", "cat", "/untouched", "--branch", "run-1"]);
    assert_eq!(gone.status, Some(1), "{gone:?}");
    kept.project.write("f", OTHER);
    fs::remove_dir_all(kept.project.beside("exported")).unwrap();
    kept.is_kept_and_not_applied("was deleted");
    kept.is_named_by_a_run();
}

#[test]
fn of_a_project_on_a_filesystem_that_was_unmounted() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let kept = Kept::new(true);
    succeeds(Command::new("umount").arg("-l").arg(kept.project.path()));
    assert_eq!(kept.project.read("f"), OTHER);
    kept.is_kept_and_not_applied("is not there any more");
    assert_eq!(kept.cat("/untouched"), "of the host\n");
    kept.is_named_by_a_run();
}

/// The run itself goes on with the directory that it began with.
#[test]
fn while_a_run_is_in_a_project_that_is_deleted() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n")]);
    let script = "echo mine > made; echo on; read -r _; cat made; ls";
    let mut run = project.start(&["--apply"], script);
    run.expect("on");
    fs::remove_dir_all(project.path()).unwrap();
    fs::create_dir(project.path()).unwrap();
    run.say("go on");
    let (status, out, err) = run.finish();
    assert_eq!(status.code(), Some(125), "{err}");
    assert!(out.contains("mine\nmade\n"), "{out:?}: {err}");
    assert!(err.contains("exported to"), "{err}");
    assert_eq!(listing(&project.path()), Some(Vec::new()));
}
