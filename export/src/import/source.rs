//! Reads a directory of changes that was written earlier. The changes are applied to the host with the
//! rights of the user that reads them, so no other user may be able to write to the directory.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use agentfs_core::beneath;
use agentfs_proto::bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

use crate::ExportError;
use crate::changes::{FORMAT, LIST, List, Step, inside};
use crate::import::target::Metadata;

/// A directory of changes.
#[derive(Debug)]
pub struct Source {
    root: OwnedFd,
    path: PathBuf,
    /// What `changes.json` says.
    pub list: List,
    /// The directories in it that were checked.
    checked: RefCell<HashSet<Vec<u8>>>,
}

impl Source {
    /// Opens a directory and reads the list in it.
    ///
    /// # Errors
    ///
    /// [`ExportError`] when there is no such directory, or another user could have written it.
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        let failed = |error| ExportError::Io(path.to_owned(), error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        check(&root, path)?;
        let list_path = path.join(LIST);
        let list = file_in(&root, LIST.as_bytes(), &list_path)?;
        Ok(Self {
            list: read(list, &list_path)?,
            root,
            path: path.to_owned(),
            checked: RefCell::default(),
        })
    }

    /// Returns where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.list.changes
    }

    /// Opens the new content of a file.
    pub(crate) fn content(&self, path: &Bytes) -> Result<File, ExportError> {
        let display = self.path.join(path.as_path());
        let relative = inside(path).ok_or_else(|| leads_out(&display, path))?;
        self.check_directories(relative)?;
        file_in(&self.root, relative, &display)
    }

    /// Checks the directories on the way to a path, each once.
    fn check_directories(&self, path: &[u8]) -> Result<(), ExportError> {
        let mut checked = self.checked.borrow_mut();
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (slash, _) in slashes {
            let directory = path.get(..slash).unwrap_or_default();
            if checked.contains(directory) {
                continue;
            }
            let display = self.path.join(std::ffi::OsStr::from_bytes(directory));
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let opened = beneath::open(&self.root, directory, flags)
                .map_err(|errno| ExportError::Io(display.clone(), errno.into()))?;
            check(&opened, &display)?;
            checked.insert(directory.to_vec());
        }
        Ok(())
    }
}

fn file_in(root: impl AsFd, path: &[u8], display: &Path) -> Result<File, ExportError> {
    let failed = |error| ExportError::Io(display.to_owned(), error);
    // A FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let opened = beneath::open(root, path, flags).map_err(|errno| failed(errno.into()))?;
    if !check(&opened, display)?.is_file() {
        return Err(ExportError::NotAFile(display.to_owned()));
    }
    Ok(opened.into())
}

/// Checks that an object belongs to this user or to root, and that nobody else may write to it.
fn check(opened: impl AsFd, path: &Path) -> Result<Metadata, ExportError> {
    let stat = rustix::fs::fstat(opened)
        .map_err(|errno| ExportError::Io(path.to_owned(), errno.into()))?;
    let found = Metadata::of(&stat);
    if found.uid != 0 && found.uid != geteuid().as_raw() {
        let uid = found.uid;
        let path = path.to_owned();
        return Err(ExportError::Owner { path, uid });
    }
    if found.mode & 0o022 != 0 {
        return Err(ExportError::Writable(path.to_owned()));
    }
    Ok(found)
}

fn leads_out(list: &Path, path: &Bytes) -> ExportError {
    let why = format!("{path} leads out of the directory that it is meant for");
    ExportError::List(list.to_owned(), why)
}

fn read(mut file: File, path: &Path) -> Result<List, ExportError> {
    let mut text = Vec::new();
    let read: io::Result<usize> = file.read_to_end(&mut text);
    read.map_err(|error| ExportError::Io(path.to_owned(), error))?;
    let list: List = serde_json::from_slice(&text)
        .map_err(|error| ExportError::List(path.to_owned(), error.to_string()))?;
    if list.format == 0 || list.format > FORMAT {
        let why = format!("it has format {}, and not 1 to {FORMAT}", list.format);
        return Err(ExportError::List(path.to_owned(), why));
    }
    for step in &list.changes {
        let content = step.after.as_ref().and_then(|it| it.content.as_ref());
        let paths = [&step.path, &step.from, &step.original];
        for named in paths.into_iter().chain(content) {
            if inside(named).is_none() {
                return Err(leads_out(path, named));
            }
        }
    }
    Ok(list)
}
