//! Checks what an export holds, and that it is whole or does not exist.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use agentfs_testkit::environment::can_mount;
use rustix::process::Signal;

use crate::project::{Project, Said};
use crate::waiting;

/// Changes of every kind, among them some that depend on each other.
const CHANGES: &str = "printf new > made; printf changed > file; rm gone; mv from to; \
    mkdir dir; printf in > dir/in; ln -s made link; chmod 755 tool; rm -r tree; \
    mv moving moved; printf later >> moved/inner; mv a x; mv b a; mv x b; \
    rm both; mkdir both; printf x > both/x";

fn changed() -> Project {
    Project::with(&[
        ("file", "old"),
        ("gone", ""),
        ("from", "renamed"),
        ("tool", "#!"),
        ("tree/a/b", ""),
        ("moving/inner", "inner "),
        ("a", "is a"),
        ("b", "is b, and longer"),
        ("both", "a file"),
    ])
}

#[test]
fn a_hole_of_200_gib_is_exported_and_applied_at_once() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let script =
        "truncate -s 200G big; printf x | dd of=big bs=1 seek=100G conv=notrunc status=none";
    let exported = project.run(&[], script).exported();
    let copy = exported.join("files/big").metadata().unwrap();
    assert_eq!(copy.len(), 200 << 30);
    assert!(copy.blocks() <= 64, "{} blocks", copy.blocks());
    project.ask(&["apply", exported.to_str().unwrap()]);
    let made = project.path().join("big").metadata().unwrap();
    assert_eq!(made.len(), 200 << 30);
    assert!(made.blocks() <= 64, "{} blocks", made.blocks());
}

#[test]
fn an_apply_that_was_cut_short_anywhere_is_finished_by_the_next_one() {
    if !can_mount() {
        return;
    }
    // Each of these is what an apply leaves that is ended after some of its steps.
    let partly = [
        "rm gone",
        "rm gone; rm -r tree; rm both",
        "rm gone; rm -r tree; rm both; mkdir -m 700 both dir; mv from to",
        "mv moving moved",
        "mv a .x; mv b a; mv .x b",
        "printf new > made; chmod 644 made; printf changed > file; ln -s made link",
    ];
    for done in partly {
        let project = changed();
        let exported = project.run(&[], CHANGES).exported();
        let exported = exported.to_str().unwrap();
        let cut = Said::by(project.command("sh").args(["-c", done]));
        assert_eq!(cut.status, Some(0), "{cut:?}");
        let finished = project.say(&["apply", exported]);
        assert_eq!(finished.status, Some(0), "{done}: {finished:?}");
        assert_eq!(project.read("moved/inner"), "inner later", "{done}");
        let swapped = (project.read("a"), project.read("b"));
        assert_eq!(
            swapped,
            ("is b, and longer".into(), "is a".into()),
            "{done}"
        );
        assert_eq!(project.read("both/x"), "x");
        assert_eq!(project.read("to"), "renamed");
        assert!(!project.has("gone") && !project.has("tree") && !project.has("moving"));
        let again = project.say(&["apply", exported]);
        assert_eq!(
            (again.status, &*again.out),
            (Some(0), "already applied\n"),
            "{again:?}"
        );
    }
}

#[test]
fn a_failed_export_leaves_nothing() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::new();
    fs::create_dir(project.beside("small")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1M none ../small && \
         {} run --export ../small/out -- sh -c 'yes | head -c 4M > big'; echo $?; ls -A ../small",
        env!("CARGO_BIN_EXE_agentfs")
    );
    let said = Said::by(project.command("unshare").args(["-m", "sh", "-c", &script]));
    assert_eq!(said.out, "125\n", "{said:?}");
    assert!(said.err.contains("No space left"), "{}", said.err);
    let kept = project.run(&["--branch", "run-1", "--export", "../out"], "true");
    assert_eq!(kept.status, Some(0), "nothing is lost: {kept:?}");
    let big = project.beside("out/files/big").metadata().unwrap();
    assert_eq!(big.len(), 4 << 20);
}

#[test]
fn a_signal_ends_an_export_at_once_and_leaves_nothing_of_it() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let out = project.beside("out");
    fs::create_dir(&out).unwrap();
    let mut run = project.start(
        &["--export", "../out/e"],
        "yes | head -c 256M > big; echo done",
    );
    run.expect("done");
    waiting::entry(&out, |name| name.contains("partial"));
    run.signal(Signal::TERM);
    let (status, _, err) = run.finish();
    assert_eq!(status.code(), Some(125), "{err}");
    assert!(err.contains("interrupted by SIGTERM"), "{err}");
    assert!(err.contains("stay in the branch run-1"), "{err}");
    waiting::no_entry(&out, |_| true);
    let diff = project.ask(&["branch", "diff", "run-1"]);
    assert_eq!(diff, "A /big\n");
}

#[test]
fn what_cannot_be_read_is_named_and_everything_else_is_exported() {
    if !can_mount() {
        return;
    }
    // The content of a file that is only renamed is kept up to 1 MiB.
    let large = "old text of the project\n".repeat(50_000);
    let project = Project::with(&[("big", &large), ("f", "old")]);
    let script = "mv big moved; echo new > f; echo made > g; echo done; read -r _";
    let mut run = project.start(&[], script);
    run.expect("done");
    project.write("big", "changed by the host");
    run.say("go on");
    let (status, out, err) = run.finish();
    assert_eq!(status.code(), Some(125), "{err}");
    let said = Said {
        status: status.code(),
        out,
        err,
    };
    let exported = said.exported();
    assert!(said.err.contains("  /moved: "), "{}", said.err);
    assert_eq!(
        fs::read_to_string(exported.join("files/f")).unwrap(),
        "new\n"
    );
    assert_eq!(
        fs::read_to_string(exported.join("files/g")).unwrap(),
        "made\n"
    );
    assert!(!exported.join("files/moved").exists());
    assert!(said.err.contains("parts"), "{}", said.err);
    assert!(said.err.contains("branch delete run-1"), "{}", said.err);

    // The branch is kept, and what it did to the file is a conflict.
    let conflict = project.say(&["branch", "apply", "run-1"]);
    assert_eq!(conflict.status, Some(1), "{conflict:?}");
    assert!(conflict.out.contains("conflict /moved\n"), "{conflict:?}");
    assert_eq!(project.read("f"), "old");
    project.ask(&["branch", "apply", "run-1", "--force"]);
    assert_eq!(project.read("f"), "new\n");
    assert_eq!(project.read("g"), "made\n");
    assert_eq!(project.read("moved"), "changed by the host");

    let again = project.say(&["apply", exported.to_str().unwrap()]);
    assert_eq!(again.status, Some(1), "not all is applied: {again:?}");
    assert!(again.err.contains("/moved is left out"), "{again:?}");
    assert_eq!(project.read("moved"), "changed by the host");
    project.ask(&["branch", "delete", "run-1"]);
}

/// The first change of a part brings all of the file into the branch.
#[test]
fn a_file_that_was_changed_in_part_is_exported_whole_whatever_the_host_does_to_it() {
    if !can_mount() {
        return;
    }
    let page = "old text of the project\n".repeat(170);
    for remove in [false, true] {
        let project = Project::with(&[("big", &page.repeat(8))]);
        let script = "printf BRANCH | dd of=big bs=1 seek=20000 conv=notrunc status=none; \
                      echo done; read -r _; tail -c 10 big";
        let mut run = project.start(&[], script);
        run.expect("done");
        if remove {
            fs::remove_file(project.path().join("big")).unwrap();
        } else {
            project.write("big", "changed by the host");
        }
        run.say("go on");
        let (status, out, err) = run.finish();
        assert_eq!(status.code(), Some(0), "{err}");
        assert!(out.ends_with("e project\n"), "{out}");
        let said = Said {
            status: status.code(),
            out,
            err,
        };
        let mut whole = page.repeat(8).into_bytes();
        whole[20_000..20_006].copy_from_slice(b"BRANCH");
        let exported = fs::read(said.exported().join("files/big")).unwrap();
        assert!(exported == whole, "{} bytes", exported.len());
    }
}

#[test]
fn what_an_export_cannot_hold_is_named_and_everything_else_is_exported() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let largest = i64::MAX.cast_unsigned();
    let file = fs::File::create(project.beside("large")).unwrap();
    if file.set_len(largest).is_ok() {
        println!("left out: this filesystem takes the largest file there can be");
        return;
    }
    let script = format!("truncate -s {largest} big; echo precious > f");
    let said = project.run(&[], &script);
    assert_eq!(said.status, Some(125), "{said:?}");
    assert!(said.err.contains("  /big: "), "{}", said.err);
    let exported = said.exported();
    let text = fs::read_to_string(exported.join("files/f"));
    assert_eq!(text.unwrap(), "precious\n");
}
