//! An unmodified program with the library preloaded, and a daemon in another process's place.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::scripted::Scripted;
use crate::shim::{Script, library, scratch};

const DELETE: u32 = 0x01;
const WRITE: u32 = 0x02;
const EXTEND: u32 = 0x04;
const ATTRIB: u32 = 0x08;
const LINK: u32 = 0x10;
const RENAME: u32 = 0x20;

/// The user-space kqueue as a library.
fn kqueue_library() -> PathBuf {
    library().with_file_name("libagentfs_testkq_preload.so")
}

/// `examples/kq_demo.c`, compiled.
fn demo(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kq_demo.c");
    let program = directory.join("kq_demo");
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .args([&program, &source, &kqueue_library()])
        .status()
        .unwrap();
    assert!(status.success(), "cc compiles the program");
    program
}

/// The demo under the shim, watching `paths`.
fn start(program: &Path, daemon: &Scripted, paths: &[&Path]) -> Script {
    let mut command = Command::new(program);
    let preload = [library(), &kqueue_library()].map(|path| path.display().to_string());
    command
        .args(paths)
        .env("LD_PRELOAD", preload.join(":"))
        .env("AGENTFS_SOCKET", daemon.socket())
        .env("AGENTFS_ANY_FILESYSTEM", "1");
    let script = Script::spawn(command);
    assert_eq!(
        script.answer(),
        "ready",
        "its own timer and user event came"
    );
    script
}

struct Stage {
    tree: TempDir,
    build: TempDir,
    daemon: Scripted,
}

fn stage() -> Stage {
    let (tree, build) = (scratch(), TempDir::new().unwrap());
    std::fs::write(tree.path().join("file"), "text").unwrap();
    let daemon = Scripted::start(tree.path());
    Stage {
        tree,
        build,
        daemon,
    }
}

#[test]
fn a_sleeping_program_gets_each_change_once_with_its_exact_bits() {
    let Stage {
        tree,
        build,
        daemon,
    } = stage();
    let (file, directory) = (tree.path().join("file"), tree.path().to_owned());
    let program = demo(build.path());
    let mut script = start(&program, &daemon, &[&file, &directory]);
    let cases = [
        (&file, WRITE, "WRITE"),
        (&file, EXTEND | WRITE, "WRITE EXTEND"),
        (&file, ATTRIB, "ATTRIB"),
        (&file, RENAME, "RENAME"),
        (&file, DELETE | LINK, "DELETE LINK"),
        (&directory, WRITE | LINK, "WRITE LINK"),
    ];
    for (path, hint, told) in cases {
        assert_eq!(daemon.post(path, hint), 1);
        assert_eq!(script.answer(), format!("{}: {told}", path.display()));
    }
    assert_eq!(script.ask("hello"), "stdin: a line");
    script.end();
}

#[test]
fn a_program_without_a_daemon_runs_as_without_the_library() {
    let Stage {
        tree,
        build,
        daemon,
    } = stage();
    daemon.die();
    let program = demo(build.path());
    let mut script = start(&program, &daemon, &[&tree.path().join("file")]);
    assert_eq!(script.ask("hello"), "stdin: a line");
    script.end();
}

#[test]
fn a_program_goes_on_when_its_daemon_dies() {
    let Stage {
        tree,
        build,
        daemon,
    } = stage();
    let file = tree.path().join("file");
    let program = demo(build.path());
    let mut script = start(&program, &daemon, &[&file]);
    daemon.post(&file, WRITE);
    assert_eq!(script.answer(), format!("{}: WRITE", file.display()));
    daemon.die();
    assert_eq!(script.ask("hello"), "stdin: a line");
    script.end();
}
