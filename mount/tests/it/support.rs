//! A mounted branch to work in.

use std::path::PathBuf;
use std::sync::Once;

use agentfs_core::id::BranchId;
use agentfs_core::{Branch, FsConfig, FsCore};
use agentfs_mount::{MountHandle, MountOptions, Mounts};
use tempfile::TempDir;

/// Set to leave out, loudly, what needs /dev/fuse.
const SKIP: &str = "AGENTFS_SKIP_FUSE_TESTS";

/// Whether mounting works here. Without it a test fails, unless [`SKIP`] is set.
pub(crate) fn can_mount() -> bool {
    static SAID: Once = Once::new();
    let Err(error) = agentfs_mount::check_device() else {
        return true;
    };
    assert!(
        std::env::var_os(SKIP).is_some(),
        "mounts cannot be tested here: {error}; or set {SKIP}=1 to leave them out"
    );
    SAID.call_once(|| eprintln!("LEFT OUT ({SKIP} is set): no mount is tested, since {error}"));
    false
}

/// A program that not every machine has, named by a variable that `cargo xtask test` sets.
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
}

impl Fixture {
    /// Over nothing; `None` when mounting is left out.
    pub(crate) fn empty() -> Option<Self> {
        Self::new(FsConfig::default())
    }

    pub(crate) fn new(config: FsConfig) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let fs = FsCore::new(config).unwrap();
        let mounts = Mounts::new(&fs).unwrap();
        Some(Self { fs, mounts })
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

/// A small random number generator (splitmix64): a test must be repeatable, not unpredictable.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let index = self.below(all.len() as u64);
        &all[usize::try_from(index).unwrap()]
    }
}
