//! Two branches of one directory, what each of them changed, and both applied to the directory:
//! `cargo run -p agentfs-core --example branch_diff_apply`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::fs;

use agentfs_core::{
    ApplyMode, Branch, Caller, FsConfig, FsCore, OpenFlags, Overlay, PathChange, Version,
};

fn main() -> Result<(), Box<dyn Error>> {
    let project = tempfile::tempdir()?;
    fs::write(project.path().join("README"), "A project.\n")?;

    let lower = project.path().to_owned();
    let overlay = Some(Overlay { lower });
    let core = FsCore::new(FsConfig {
        overlay,
        ..FsConfig::default()
    })?;
    let me = Caller::root();
    let unchanged = core.snapshot_create(&me, FsCore::MAIN, "unchanged")?;
    for agent in ["anna", "bert"] {
        let id = core.branch_create_from_snapshot(&me, unchanged, agent)?;
        let branch = core.branch(id)?;
        write(&branch, &format!("/{agent}.txt"), b"Work of one agent.\n")?;
        // Only this branch shows the file: the directory and the other branch do not.
        assert!(!project.path().join(format!("{agent}.txt")).exists());
        for change in core.diff(Version::Snapshot(unchanged), Version::Branch(id))? {
            if let PathChange::Added { path, .. } = change {
                println!("{agent}: A {}", path.display());
            }
        }
        let applied = branch.apply(ApplyMode::Refuse)?;
        println!("{agent}: {} steps applied", applied.actions.len());
    }
    let mut names: Vec<_> = fs::read_dir(project.path())?
        .map(|entry| entry.map(|it| it.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    println!("the project has {names:?}");
    assert_eq!(names, ["README", "anna.txt", "bert.txt"]);
    Ok(())
}

fn write(branch: &Branch, path: &str, text: &[u8]) -> agentfs_core::Result<()> {
    let me = Caller::root();
    let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
    let file = branch.open(&me, path, flags, 0o644)?;
    branch.write(&me, file, text)?;
    branch.close(&me, file)
}
