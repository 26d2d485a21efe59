//! Checks `agentfs apply DIR`: whose list it takes, where it writes, and what it leaves alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use rustix::fs::{FlockOperation, flock, inotify};

use crate::project::{Project, Said};
use crate::waiting;

/// An export in the first format, which a test makes by hand.
struct Export {
    directory: PathBuf,
    changes: Vec<serde_json::Value>,
}

impl Export {
    fn new(project: &Project) -> Self {
        let directory = project.beside("export");
        fs::create_dir_all(directory.join("files")).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
        Self {
            directory,
            changes: Vec::new(),
        }
    }

    /// Adds a change of a file, or a new file where the project has none.
    fn file(mut self, project: &Project, path: &str, content: &str) -> Self {
        let files = self.directory.join("files");
        let stored = files.join(path.trim_start_matches('/'));
        fs::create_dir_all(stored.parent().unwrap()).unwrap();
        fs::write(stored, content).unwrap();
        let found = project.path().join(&path[1..]).symlink_metadata().ok();
        let before = found.map(|it| {
            let time = it.mtime() * 1_000_000_000 + it.mtime_nsec();
            serde_json::json!({ "kind": it.mode() & 0o170_000, "size": it.len(), "mtime_ns": time })
        });
        self.changes.push(serde_json::json!({
            "change": if before.is_some() { "content" } else { "added" },
            "path": path, "mode": 0o100_644, "original": path, "before": before,
            "after": {
                "uid": rustix::process::geteuid().as_raw(),
                "gid": rustix::process::getegid().as_raw(),
                "mode": 0o100_644, "mtime_ns": 1_000_000_000_i64, "rdev": 0, "xattrs": [],
                "content": format!("files{path}"),
            },
        }));
        self
    }

    fn write(&self, project: &Path) -> String {
        let list = serde_json::json!({
            "format": 1, "branch": "b", "project": project, "conflicts": [],
            "changes": self.changes,
        });
        fs::write(self.directory.join("changes.json"), list.to_string()).unwrap();
        self.directory.to_str().unwrap().to_owned()
    }
}

#[test]
fn no_symbolic_link_of_the_project_leads_out_of_it() {
    let project = Project::with(&[("d/f", "old"), ("link/f", "old")]);
    let export = Export::new(&project)
        .file(&project, "/d/made", "new")
        .file(&project, "/link/f", "new");
    let outside = project.beside("outside");
    fs::rename(project.path().join("d"), &outside).unwrap();
    symlink(&outside, project.path().join("d")).unwrap();
    let export = export.write(&project.path());
    for options in [&["apply", &export][..], &["apply", &export, "--force"]] {
        let said = project.say(options);
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(!outside.join("made").exists(), "{said:?}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn the_last_name_of_a_path_is_replaced_and_never_followed() {
    let project = Project::with(&[("f", "old")]);
    let export = Export::new(&project).file(&project, "/f", "new");
    let outside = project.beside("outside");
    fs::write(&outside, "theirs").unwrap();
    fs::remove_file(project.path().join("f")).unwrap();
    symlink(&outside, project.path().join("f")).unwrap();
    let export = export.write(&project.path());
    assert_eq!(project.say(&["apply", &export]).out, "conflict /f\n");
    project.ask(&["apply", &export, "--force"]);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "theirs");
    assert_eq!(project.read("f"), "new");
    assert!(
        project
            .path()
            .join("f")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
}

#[test]
fn what_a_link_in_the_export_leads_to_is_not_copied() {
    let project = Project::new();
    let export = Export::new(&project).file(&project, "/f", "new");
    let secret = project.beside("secret");
    fs::write(&secret, "secret").unwrap();
    let stored = export.directory.join("files/f");
    fs::remove_file(&stored).unwrap();
    symlink(&secret, &stored).unwrap();
    let export = export.write(&project.path());
    let said = project.say(&["apply", &export]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(!project.has("f"), "{said:?}");
    assert_eq!(fs::read_dir(project.path()).unwrap().count(), 0);
}

#[test]
fn a_path_that_leads_out_of_the_project_is_refused() {
    let project = Project::new();
    fs::create_dir(project.beside("x")).unwrap();
    let export = Export::new(&project).file(&project, "/../x/f", "new");
    let export = export.write(&project.path());
    let said = project.say(&["apply", &export]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.err.contains("leads out"), "{}", said.err);
    assert_eq!(fs::read_dir(project.path()).unwrap().count(), 0);
}

#[test]
fn a_list_that_somebody_else_could_have_written_is_refused() {
    let project = Project::new();
    let export = Export::new(&project).file(&project, "/f", "new");
    let (directory, path) = (export.directory.clone(), export.write(&project.path()));
    let list = directory.join("changes.json");
    let refused = |why: &str| {
        let said = project.say(&["apply", &path]);
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(said.err.contains(why), "{}", said.err);
        assert!(!project.has("f"));
    };
    for (path, mode) in [(&directory, 0o700), (&list, 0o600)] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        refused("chmod -R go-w");
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(path, Some(65_534), None).unwrap();
            refused("belongs to user 65534");
            chown(path, Some(0), None).unwrap();
        }
    }
    project.ask(&["apply", &path]);
    assert_eq!(project.read("f"), "new");
}

#[test]
fn from_elsewhere_it_is_applied_only_where_the_user_names_the_project() {
    let project = Project::with(&[("inner/f", "old")]);
    let export = Export::new(&project).file(&project, "/inner/f", "new");
    let export = export.write(&project.path());
    let elsewhere = project.directory().to_owned();
    let said = Said::by(
        project
            .agentfs()
            .args(["apply", &export])
            .current_dir(&elsewhere),
    );
    assert_eq!(said.status, Some(1), "{said:?}");
    assert_eq!(project.read("inner/f"), "old");
    // The printed command works as it stands, in that directory.
    let (_, command) = said.err.trim_end().rsplit_once("with: agentfs ").unwrap();
    let script = format!("{} {command}", env!("CARGO_BIN_EXE_agentfs"));
    let typed = Said::by(
        project
            .command("sh")
            .args(["-c", &script])
            .current_dir(&elsewhere),
    );
    assert_eq!(typed.status, Some(0), "{script}: {typed:?}");
    assert_eq!(project.read("inner/f"), "new");
    // In the project the command needs no directory to be named.
    let inner = project.path().join("inner");
    let said = Said::by(
        project
            .agentfs()
            .args(["apply", &export])
            .current_dir(inner),
    );
    assert_eq!(
        (said.status, &*said.out),
        (Some(0), "already applied\n"),
        "{said:?}"
    );
}

#[test]
fn on_a_terminal_it_is_asked_where() {
    let project = Project::with(&[("f", "old")]);
    let export = Export::new(&project).file(&project, "/f", "new");
    let export = export.write(&project.path());
    let line = format!(
        "cd / && exec {} apply {export}",
        env!("CARGO_BIN_EXE_agentfs")
    );
    for (answer, content) in [("", "old"), ("y", "new")] {
        let mut script = project.command("script");
        script
            .env("SHELL", "/bin/sh")
            .args(["-qec", &line, "/dev/null"]);
        let mut terminal = Program::start(&mut script);
        terminal.say(answer);
        terminal.finish();
        assert_eq!(project.read("f"), content);
    }
}

#[test]
fn all_names_of_a_file_in_the_project_get_its_content_and_none_outside() {
    let project = Project::with(&[("a", "old"), ("d/x", "")]);
    let (a, b) = (project.path().join("a"), project.path().join("d/b"));
    let outside = project.beside("outside");
    fs::hard_link(&a, &b).unwrap();
    fs::hard_link(&a, &outside).unwrap();
    let export = Export::new(&project).file(&project, "/a", "new");
    project.ask(&["apply", &export.write(&project.path())]);
    assert_eq!(
        (project.read("a"), project.read("d/b")),
        ("new".into(), "new".into())
    );
    assert_eq!(fs::read_to_string(&outside).unwrap(), "old");
    assert_eq!(a.metadata().unwrap().ino(), b.metadata().unwrap().ino());
    assert_eq!(
        fs::read_dir(project.path()).unwrap().count(),
        2,
        "nothing stays behind"
    );
}

#[test]
fn nothing_is_written_into_what_is_mounted_in_the_project() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::with(&[("d/f", "old")]);
    let export = Export::new(&project).file(&project, "/d/f", "new");
    let export = export.write(&project.path());
    let script = format!(
        "mount -t tmpfs none d && touch -r {0}/files/d/f d/f && {1} apply {0} --force; echo $?; \
         wc -c < d/f",
        export,
        env!("CARGO_BIN_EXE_agentfs")
    );
    let said = Said::by(project.command("unshare").args(["-m", "sh", "-c", &script]));
    assert_eq!(said.out, "conflict /d/f\n1\n0\n", "{said:?}");
    assert!(said.err.contains("mounted"), "{}", said.err);
    assert_eq!(project.read("d/f"), "old");
}

#[test]
fn an_apply_looks_for_conflicts_when_another_one_is_done() {
    let project = Project::with(&[("f", "old")]);
    let export = Export::new(&project).file(&project, "/f", "new");
    let export = export.write(&project.path());
    let root = fs::File::open(project.path()).unwrap();
    flock(&root, FlockOperation::LockExclusive).unwrap();
    let mut apply = Program::start(project.agentfs().args(["apply", &export]));
    apply.complains("waiting for another apply");
    project.write("f", "of the other one");
    flock(&root, FlockOperation::Unlock).unwrap();
    let (status, out, err) = apply.finish();
    assert_eq!((status.code(), &*out), (Some(1), "conflict /f\n"), "{err}");
    assert_eq!(project.read("f"), "of the other one");
}

#[test]
fn one_that_waits_ends_at_a_signal_and_has_done_nothing() {
    let project = Project::with(&[("f", "old")]);
    let export = Export::new(&project).file(&project, "/f", "new");
    let export = export.write(&project.path());
    let root = fs::File::open(project.path()).unwrap();
    flock(&root, FlockOperation::LockExclusive).unwrap();
    let mut apply = Program::start(project.agentfs().args(["apply", &export]));
    apply.complains("waiting for another apply");
    apply.signal(rustix::process::Signal::TERM);
    assert!(!apply.finish().0.success());
    assert_eq!(project.read("f"), "old");
}

#[test]
fn a_signal_ends_an_apply_between_two_pieces_of_a_file_and_it_can_be_given_again() {
    let project = Project::with(&[("old", "old")]);
    let export = Export::new(&project).file(&project, "/big", "");
    let big = export.directory.join("files/big");
    let script = format!("yes | head -c 256M > {}", big.display());
    assert_eq!(
        Said::by(project.command("sh").args(["-c", &script])).status,
        Some(0)
    );
    let export = export.write(&project.path());
    let mut apply = Program::start(project.agentfs().args(["apply", &export]));
    waiting::entry(project.directory(), |name| name.starts_with(".agentfs-"));
    apply.signal(rustix::process::Signal::TERM);
    let (status, _, err) = apply.finish();
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("nothing was changed"), "{err}");
    let beside = fs::read_dir(project.directory()).unwrap();
    let mut beside = beside.map(|it| it.unwrap().file_name().into_string().unwrap());
    assert!(!beside.any(|name| name.starts_with(".agentfs-")));
    assert_eq!(
        fs::read_dir(project.path()).unwrap().count(),
        1,
        "nothing stays behind"
    );
    let (_, command) = err.trim_end().rsplit_once("again with: agentfs ").unwrap();
    let script = format!("{} {command}", env!("CARGO_BIN_EXE_agentfs"));
    let finished = Said::by(project.command("sh").args(["-c", &script]));
    assert_eq!(finished.status, Some(0), "{finished:?}");
    assert_eq!(
        project.path().join("big").metadata().unwrap().len(),
        256 << 20
    );
}

/// Kills the program when the project hears of its `count`th change.
#[test]
fn an_apply_that_is_killed_is_taken_back_by_the_next_command_or_it_was_done() {
    const FILES: usize = 200;
    let mut taken_back = 0;
    for count in [1, 20, 100, 199] {
        let names: Vec<String> = (0..FILES).map(|number| format!("f{number:03}")).collect();
        let olds: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "old")).collect();
        let project = Project::with(&olds);
        let mut export = Export::new(&project);
        for name in &names {
            export = export.file(&project, &format!("/{name}"), "new");
        }
        let export = export.write(&project.path());
        let heard = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let flags = inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&heard, project.path(), flags).unwrap();
        let mut apply = project.agentfs().args(["apply", &export]).spawn().unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&heard, &mut buffer);
        for _ in 0..count {
            events.next().unwrap();
        }
        apply.kill().unwrap();
        apply.wait().unwrap();
        let next = project.say(&["apply", &export, "--dry-run"]);
        assert_eq!(next.status, Some(0), "{next:?}");
        let new = names.iter().filter(|name| project.read(name) == "new");
        let new = new.count();
        assert!(new == 0 || new == FILES, "{new} after {count}");
        taken_back += usize::from(new == 0);
        let left = |directory: &Path| {
            let entries = fs::read_dir(directory).unwrap();
            let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.contains("agentfs-")).count()
        };
        assert_eq!(left(&project.path()) + left(project.directory()), 0);
        project.ask(&["apply", &export]);
        assert!(names.iter().all(|name| project.read(name) == "new"));
    }
    assert!(taken_back > 0, "none was killed in time");
}

#[test]
fn what_is_new_arrives_with_its_permissions_and_its_names() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("g", "old"), ("b", "old")]);
    // The umask takes nothing from what is set afterwards.
    let script = "mkdir open group; chmod 777 open; chmod 2775 group; mkfifo pipe; chmod 662 pipe; \
        echo in > open/in; mkdir closed; echo in > closed/in; chmod 555 closed; \
        echo y > t; mv t g; echo new > one; ln one two; ln b c";
    let exported = project.run(&[], script).exported();
    let exported = exported.to_str().unwrap();
    let said = project.ask(&["apply", exported]);
    assert!(said.contains("M /g\n") && !said.contains("D /g"), "{said}");
    let found = |name: &str| project.path().join(name).symlink_metadata().unwrap();
    let modes = ["open", "group", "pipe", "closed"].map(|name| found(name).mode() & 0o7777);
    assert_eq!(modes, [0o777, 0o2775, 0o662, 0o555]);
    assert_eq!(
        (project.read("open/in"), project.read("closed/in")),
        ("in\n".into(), "in\n".into())
    );
    assert_eq!(project.read("g"), "y\n");
    assert!(!project.has("t"));
    let one = found("one").ino();
    assert_eq!(one, found("two").ino(), "both names are of one file");
    let again = project.say(&["apply", exported]);
    assert_eq!(
        (again.status, &*again.out),
        (Some(0), "already applied\n"),
        "{again:?}"
    );
}

#[test]
fn holes_of_a_file_stay_holes() {
    let project = Project::new();
    let export = Export::new(&project).file(&project, "/big", "");
    let stored = fs::File::options()
        .write(true)
        .open(export.directory.join("files/big"))
        .unwrap();
    stored.set_len(200 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&stored, b"in the middle", 100 << 30).unwrap();
    project.ask(&["apply", &export.write(&project.path())]);
    let made = project.path().join("big").metadata().unwrap();
    assert_eq!(made.len(), 200 << 30);
    assert!(made.blocks() <= 64, "{} blocks", made.blocks());
}

#[test]
fn names_of_255_bytes_are_applied() {
    let name = "n".repeat(255);
    let project = Project::with(&[(&name, "old")]);
    let export = Export::new(&project).file(&project, &format!("/{name}"), "new");
    project.ask(&["apply", &export.write(&project.path())]);
    assert_eq!(project.read(&name), "new");
}

#[test]
fn a_file_that_others_put_into_a_removed_directory_is_a_conflict_before_anything_is_done() {
    let project = Project::with(&[("d/f", "old"), ("keep", "")]);
    let mut export = Export::new(&project).file(&project, "/made", "new");
    let found = project.path().join("d/f").metadata().unwrap();
    let time = found.mtime() * 1_000_000_000 + found.mtime_nsec();
    let removed = |path: &str, mode: u32, size: u64, time: i64| {
        serde_json::json!({
            "change": "removed", "path": path, "mode": mode, "original": path, "after": null,
            "before": { "kind": mode & 0o170_000, "size": size, "mtime_ns": time },
        })
    };
    export.changes.insert(0, removed("/d", 0o040_755, 0, 0));
    export
        .changes
        .insert(0, removed("/d/f", 0o100_644, 3, time));
    let export = export.write(&project.path());
    project.write("d/theirs", "of the host");
    let said = project.say(&["apply", &export]);
    assert_eq!(
        (said.status, &*said.out),
        (Some(1), "conflict /d\n"),
        "{said:?}"
    );
    assert_eq!(project.read("d/f"), "old");
    project.ask(&["apply", &export, "--force"]);
    assert_eq!(project.read("d/theirs"), "of the host");
    assert!(!project.has("d/f") && project.has("made"));
}

#[test]
fn a_project_that_was_replaced_is_not_written_to_unless_it_is_named() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let exported = project.run(&[], "echo new > f; echo made > g").exported();
    let exported = exported.to_str().unwrap();
    fs::rename(project.path(), project.beside("moved")).unwrap();
    fs::create_dir(project.path()).unwrap();
    let said = project.say(&["apply", exported]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.err.contains("another directory"), "{}", said.err);
    assert!(!project.has("g"));
    let moved = project.beside("moved");
    project.ask(&["apply", exported, "--to", moved.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(moved.join("f")).unwrap(), "new\n");
}

#[test]
fn a_directory_for_temporary_exports_that_somebody_else_prepared_is_not_used() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let temporary = project.beside("tmp");
    let prepared = temporary.join("agentfs-changes-0");
    fs::create_dir_all(&prepared).unwrap();
    chown(&prepared, Some(65_534), None).unwrap();
    let mut run: Command = project.agentfs();
    run.env("TMPDIR", &temporary)
        .env("XDG_STATE_HOME", "/proc/nowhere")
        .args(["run", "--in-memory", "--", "sh", "-c", "echo new > f"]);
    let said = Said::by(&mut run);
    assert_eq!(said.status, Some(125), "{said:?}");
    assert!(said.err.contains("belongs to user 65534"), "{}", said.err);
    assert!(
        said.err.contains("agentfs branch export run-1 DIR"),
        "{}",
        said.err
    );
    assert_eq!(fs::read_dir(&prepared).unwrap().count(), 0);
}
