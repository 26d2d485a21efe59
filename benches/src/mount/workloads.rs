//! What is done at each place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::Size;
use super::lower_tree::{CRATE, FULL, TREE, WORKSPACE, large};
use super::place::succeed;
use crate::Failure;

/// What a row of the table is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub(super) enum Row {
    Untar,
    ReadTreeFirst,
    ReadTreeAgain,
    GitStatusFirst,
    GitStatusAgain,
    CargoBuild,
    LargeReadFirst,
    LargeReadAgain,
    RandomRead,
    LargeWrite,
    RandomWrite,
    Create,
    Stat,
    List,
    ListAgain,
    Rename,
    Unlink,
    ListLower,
    StatLower,
    Workspace,
}

/// What should be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aim {
    /// At least twice as fast as fuse-overlayfs.
    Metadata,
    /// No slower than fuse-overlayfs.
    Content,
    /// That, and within 1.2 of the bare directory.
    Unchanged,
}

impl Row {
    /// In the order in which they run: some need what those before have made.
    pub(super) const ALL: [Self; 20] = [
        Self::ReadTreeFirst,
        Self::ReadTreeAgain,
        Self::GitStatusFirst,
        Self::GitStatusAgain,
        Self::Untar,
        Self::CargoBuild,
        Self::LargeReadFirst,
        Self::LargeReadAgain,
        Self::RandomRead,
        Self::LargeWrite,
        Self::RandomWrite,
        Self::Create,
        Self::Stat,
        Self::List,
        Self::ListAgain,
        Self::Rename,
        Self::Unlink,
        Self::ListLower,
        Self::StatLower,
        Self::Workspace,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Untar => "untar a source tree",
            Self::ReadTreeFirst => "read an unchanged source tree, first time",
            Self::ReadTreeAgain => "read an unchanged source tree, again",
            Self::GitStatusFirst => "git status, first time",
            Self::GitStatusAgain => "git status, again",
            Self::CargoBuild => "cargo build of a small crate",
            Self::LargeReadFirst => "read an unchanged file in 1 MiB pieces, first time",
            Self::LargeReadAgain => "read an unchanged file in 1 MiB pieces, again",
            Self::RandomRead => "read 4 KiB at random from an unchanged file",
            Self::LargeWrite => "write a new file in 1 MiB pieces",
            Self::RandomWrite => "write 4 KiB at random",
            Self::Create => "create files",
            Self::Stat => "stat files",
            Self::List => "list a directory, first time",
            Self::ListAgain => "list a directory, again",
            Self::Rename => "rename files",
            Self::Unlink => "unlink files",
            Self::ListLower => "list an unchanged directory, first time",
            Self::StatLower => "stat unchanged files, first time",
            Self::Workspace => "cargo build of this workspace",
        }
    }

    pub(super) fn aim(self) -> Aim {
        match self {
            Self::Create
            | Self::Stat
            | Self::List
            | Self::ListAgain
            | Self::Rename
            | Self::Unlink
            | Self::ListLower
            | Self::StatLower => Aim::Metadata,
            Self::ReadTreeAgain
            | Self::LargeReadFirst
            | Self::LargeReadAgain
            | Self::RandomRead => Aim::Unchanged,
            Self::Untar
            | Self::ReadTreeFirst
            | Self::GitStatusFirst
            | Self::GitStatusAgain
            | Self::CargoBuild
            | Self::Workspace
            | Self::LargeWrite
            | Self::RandomWrite => Aim::Content,
        }
    }

    /// Returns how long it may take in a store, of the time that it takes in memory.
    pub(super) fn most_of_memory(self) -> Option<f64> {
        match self {
            Self::Create | Self::Stat | Self::Rename | Self::Unlink | Self::RandomWrite => {
                Some(1.2)
            }
            Self::LargeWrite => Some(1.0),
            Self::Untar
            | Self::ReadTreeFirst
            | Self::ReadTreeAgain
            | Self::GitStatusFirst
            | Self::GitStatusAgain
            | Self::CargoBuild
            | Self::LargeReadFirst
            | Self::LargeReadAgain
            | Self::RandomRead
            | Self::List
            | Self::ListAgain
            | Self::ListLower
            | Self::StatLower
            | Self::Workspace => None,
        }
    }
}

/// One place in one round.
#[derive(Debug)]
pub(super) struct Bench {
    path: PathBuf,
    archive: PathBuf,
    size: Size,
    large: PathBuf,
    written: PathBuf,
}

impl Bench {
    pub(super) fn new(
        path: &Path,
        archive: PathBuf,
        size: Size,
        round: usize,
    ) -> Result<Self, Failure> {
        fs::create_dir(path.join("files"))?;
        fs::create_dir(path.join("untarred"))?;
        Ok(Self {
            path: path.to_owned(),
            archive,
            size,
            large: path.join(large(round)),
            written: path.join("written"),
        })
    }

    /// Makes what a row needs of those that were left out.
    fn prepare(&self, row: Row) -> Result<(), Failure> {
        let needs_files = matches!(
            row,
            Row::Stat | Row::List | Row::ListAgain | Row::Rename | Row::Unlink
        );
        if needs_files && !self.file(0).exists() && !self.renamed(0).exists() {
            self.create()?;
        }
        if row == Row::RandomWrite && !self.written.exists() {
            self.write_large()?;
        }
        Ok(())
    }

    /// Does it once, and returns the seconds.
    pub(super) fn run(&self, row: Row) -> Result<f64, Failure> {
        self.prepare(row)?;
        let start = Instant::now();
        match row {
            Row::Untar => {
                let mut command = Command::new("tar");
                command.arg("-xf").arg(&self.archive);
                succeed(command.arg("-C").arg(self.path.join("untarred")))?;
            }
            Row::ReadTreeFirst | Row::ReadTreeAgain => {
                let read = read_tree(&self.path.join(TREE))?;
                check(read > self.size.sources * 1000, "the tree is too small")?;
            }
            Row::GitStatusFirst | Row::GitStatusAgain => {
                let mut command = Command::new("git");
                let command = command.args(["status", "--porcelain"]);
                succeed(command.current_dir(self.path.join(TREE)))?;
            }
            Row::CargoBuild => {
                build(&self.path.join(CRATE), &[])?;
            }
            Row::Workspace => {
                let dir = self.path.join(WORKSPACE);
                build(&dir, &["--workspace"])?;
                succeed(Command::new(dir.join("target/debug/agentfs")).arg("--version"))?;
            }
            Row::LargeReadFirst | Row::LargeReadAgain => self.read_large()?,
            Row::RandomRead => self.read_at_random()?,
            Row::LargeWrite => self.write_large()?,
            Row::RandomWrite => self.write_at_random()?,
            Row::Create => self.create()?,
            Row::Stat => {
                for number in 0..self.size.entries {
                    fs::metadata(self.file(number))?;
                }
            }
            Row::List | Row::ListAgain => self.list("files")?,
            Row::ListLower => self.list(FULL)?,
            Row::StatLower => {
                for number in 0..self.size.entries {
                    fs::metadata(self.path.join(FULL).join(format!("entry-{number}")))?;
                }
            }
            Row::Rename => {
                for number in 0..self.size.entries {
                    fs::rename(self.file(number), self.renamed(number))?;
                }
            }
            Row::Unlink => {
                let is_renamed = self.renamed(0).exists();
                for number in 0..self.size.entries {
                    if is_renamed {
                        fs::remove_file(self.renamed(number))?;
                    } else {
                        fs::remove_file(self.file(number))?;
                    }
                }
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn file(&self, number: u32) -> PathBuf {
        self.path.join(format!("files/file-{number}"))
    }

    fn renamed(&self, number: u32) -> PathBuf {
        self.path.join(format!("files/renamed-{number}"))
    }

    fn create(&self) -> Result<(), Failure> {
        for number in 0..self.size.entries {
            File::create_new(self.file(number))?;
        }
        Ok(())
    }

    fn list(&self, below: &str) -> Result<(), Failure> {
        let mut count = 0;
        for entry in fs::read_dir(self.path.join(below))? {
            entry?;
            count += 1;
        }
        check(count == self.size.entries, "entries are missing")
    }

    fn read_large(&self) -> Result<(), Failure> {
        let file = File::open(&self.large)?;
        let mut buffer = vec![0; 1 << 20];
        for piece in 0..self.size.large {
            file.read_exact_at(&mut buffer, piece << 20)?;
        }
        Ok(())
    }

    fn read_at_random(&self) -> Result<(), Failure> {
        let file = File::open(&self.large)?;
        let mut buffer = vec![0; 4096];
        for page in self.pages() {
            file.read_exact_at(&mut buffer, page * 4096)?;
        }
        Ok(())
    }

    fn write_large(&self) -> Result<(), Failure> {
        let file = File::create(&self.written)?;
        let buffer = vec![7; 1 << 20];
        for piece in 0..self.size.large {
            file.write_all_at(&buffer, piece << 20)?;
        }
        Ok(())
    }

    fn write_at_random(&self) -> Result<(), Failure> {
        let file = File::options().write(true).open(&self.written)?;
        let buffer = vec![9; 4096];
        for page in self.pages() {
            file.write_all_at(&buffer, page * 4096)?;
        }
        Ok(())
    }

    /// Returns the same pages every time.
    fn pages(&self) -> impl Iterator<Item = u64> {
        let mut state = 1_u64;
        let pages = self.size.large << 8;
        (0..self.size.random).map(move |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % pages
        })
    }
}

fn build(dir: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("cargo");
    command
        .args(["build", "--offline", "--quiet"])
        .args(arguments);
    succeed(command.env_remove("CARGO_TARGET_DIR").current_dir(dir))
}

/// Reads every file, and returns how many bytes that was.
fn read_tree(dir: &Path) -> Result<u64, Failure> {
    let mut read = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == ".git" {
            continue;
        }
        read += if entry.file_type()?.is_dir() {
            read_tree(&entry.path())?
        } else {
            fs::read(entry.path())?.len() as u64
        };
    }
    Ok(read)
}

fn check(holds: bool, or_else: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(or_else.into()) }
}
