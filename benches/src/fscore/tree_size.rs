//! What grows with the number of files, and what must not.

use std::io;

use agentfs_core::FsCore;

use super::Size;
use super::operations::Ours;
use super::race::nanos_each;
use super::report::{Memory, TreeSizes};
use crate::counting_allocator::growth;
use crate::statistics::Spread;

/// Files in one directory.
const FILES_IN_DIR: u32 = 1_000;

/// Makes a tree of so many empty files.
fn tree(files: u32) -> io::Result<Ours> {
    let mut ours = Ours::new(true)?;
    fill(&mut ours, files)?;
    Ok(ours)
}

/// Makes so many empty files.
pub(super) fn fill(ours: &mut Ours, files: u32) -> io::Result<()> {
    for file in 0..files {
        if file % FILES_IN_DIR == 0 {
            let path = format!("/dir-{}", file / FILES_IN_DIR);
            ours.dir = ours.branch.mkdir(&ours.caller, path, 0o755)?.node;
        }
        ours.create(&format!("file-{file:07}"))?;
    }
    Ok(())
}

/// Measures snapshots and branches of a small and of a large tree, in turns.
pub(crate) fn branching(size: Size) -> io::Result<Vec<TreeSizes>> {
    let sizes = size.files.iter().filter(|_| size.rounds > 0);
    let trees = sizes
        .map(|files| tree(*files))
        .collect::<io::Result<Vec<_>>>()?;
    branching_of(size, &trees.iter().collect::<Vec<_>>(), "")
}

/// Measures the same of trees that are there.
pub(super) fn branching_of(size: Size, trees: &[&Ours], place: &str) -> io::Result<Vec<TreeSizes>> {
    let mut snapshots = [Vec::new(), Vec::new()];
    let mut branches = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds * 10 {
        for (at, Ours { fs, caller, .. }) in trees.iter().enumerate() {
            let mut made = Err(agentfs_core::Errno::EIO);
            snapshots[at].push(nanos_each(1, || {
                made = fs.snapshot_create(caller, FsCore::MAIN, "");
            }));
            let snapshot = made?;
            let mut made = Err(agentfs_core::Errno::EIO);
            branches[at].push(nanos_each(1, || {
                made = fs.branch_create_from_snapshot(caller, snapshot, "");
            }));
            fs.branch_delete(made?)?;
            fs.snapshot_delete(snapshot)?;
        }
    }
    let compared = |what: &str, nanos: [Vec<f64>; 2]| {
        let nanos = nanos.map(Spread::of);
        TreeSizes {
            what: format!("{place}{what}"),
            files: size.files,
            nanos,
            ratio: nanos[1].median / nanos[0].median,
        }
    };
    Ok(vec![
        compared("snapshot_create", snapshots),
        compared("branch_create_from_snapshot", branches),
    ])
}

/// Measures what an empty file takes.
pub(crate) fn memory(size: Size) -> io::Result<Memory> {
    let files = size.files[1];
    if size.rounds == 0 {
        return Ok(Memory {
            files,
            allocated: f64::NAN,
            resident: f64::NAN,
        });
    }
    let before = resident()?;
    let (allocated, tree) = growth(|| tree(files));
    let after = resident()?;
    drop(tree?);
    let per_file = |bytes: usize| {
        let bytes = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        f64::from(bytes) * 1024.0 / f64::from(files)
    };
    Ok(Memory {
        files,
        allocated: per_file(allocated),
        resident: per_file(after.saturating_sub(before)),
    })
}

/// Returns the bytes of the resident set.
pub(super) fn resident() -> io::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    Ok(pages.ok_or_else(|| io::Error::other("no resident size in statm"))? * 4096)
}
