//! The AgentFS side, in a process of its own as the peer's is.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use agentfs_core::{Announced, BackstoreMode, FsConfig, FsCore, Overlay};
use agentfs_mount::{MountOptions, Mounts};

use crate::Failure;

/// What the parent asks for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    lower: PathBuf,
    point: PathBuf,
    /// Where the branch is kept, if not in memory.
    store: Option<PathBuf>,
}

/// Shows a branch of the lower directory at the mount point until the input ends.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Args {
        lower,
        point,
        store,
    } = args;
    // As the daemon does.
    agentfs_cli::heap::share_one();
    let config = FsConfig {
        backstore: store
            .clone()
            .map_or(BackstoreMode::Memory, BackstoreMode::Disk),
        overlay: Some(Overlay {
            lower: lower.clone(),
        }),
        ..FsConfig::default()
    };
    let fs = FsCore::new(config)?;
    if let Some(announced) = fs.announced() {
        // The directory does not change meanwhile, so that nothing has to be watched to announce all.
        announce(announced, lower, Path::new(""))?;
        announced.set_whole(true);
    }
    let mounts = Mounts::new(&fs)?;
    let _mount = mounts.mount(FsCore::MAIN, point, &MountOptions::default())?;
    std::io::stdout().write_all(b"ready\n")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn announce(announced: &Announced, lower: &Path, directory: &Path) -> Result<(), Failure> {
    announced.add(directory);
    for entry in std::fs::read_dir(lower.join(directory))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            announce(announced, lower, &directory.join(entry.file_name()))?;
        }
    }
    Ok(())
}
