//! A mounted branch to work in.

use std::path::PathBuf;

use agentfs_core::id::BranchId;
use agentfs_core::{BackstoreMode, Branch, FsConfig, FsCore};
use agentfs_mount::{MountHandle, MountOptions, Mounts};
use agentfs_testkit::environment::can_mount;
use tempfile::TempDir;

/// Returns a program that not every machine has, by a variable that `cargo xtask test` sets.
pub(crate) fn program(variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    if named.is_none() {
        eprintln!("LEFT OUT: {variable} names no program; `cargo xtask test` installs it");
    }
    named
}

/// A filesystem and its mounts.
pub(crate) struct Fixture {
    pub(crate) fs: FsCore,
    pub(crate) mounts: Mounts,
    /// Where the filesystem is kept, if not in memory.
    _store: Option<TempDir>,
}

impl Fixture {
    /// Creates a filesystem over nothing; returns `None` when mounting is left out.
    pub(crate) fn empty() -> Option<Self> {
        Self::new(FsConfig::default())
    }

    pub(crate) fn new(config: FsConfig) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let fs = FsCore::new(config).unwrap();
        let mounts = Mounts::new(&fs).unwrap();
        Some(Self {
            fs,
            mounts,
            _store: None,
        })
    }

    /// Does as [`empty`](Self::empty), and the filesystem is kept in a store on disk.
    pub(crate) fn in_store() -> Option<Self> {
        let store = tempfile::tempdir().unwrap();
        let config = FsConfig {
            backstore: BackstoreMode::Disk(store.path().join("store")),
            ..FsConfig::default()
        };
        Self::new(config).map(|fixture| Self {
            _store: Some(store),
            ..fixture
        })
    }

    pub(crate) fn main(&self) -> Branch {
        self.fs.branch(FsCore::MAIN).unwrap()
    }

    /// Mounts the first branch.
    pub(crate) fn mount(&self) -> Mounted {
        self.mount_branch(FsCore::MAIN)
    }

    pub(crate) fn mount_branch(&self, branch: BranchId) -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        let handle = self
            .mounts
            .mount(branch, dir.path(), &MountOptions::default())
            .unwrap();
        Mounted { handle, dir }
    }
}

/// A mount; the fields are dropped in this order.
pub(crate) struct Mounted {
    pub(crate) handle: MountHandle,
    pub(crate) dir: TempDir,
}

impl Mounted {
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }
}
