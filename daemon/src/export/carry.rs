//! From a directory to the project.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use agentfs_core::event::ObjectKind;
use agentfs_core::kind_of_mode;
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use super::{ExportError, FORMAT, LIST, List, Object, Stamp, Step, below};

/// How to go about conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Only look.
    DryRun,
    /// Do nothing if there is one.
    Refuse,
    /// Take the side of the branch.
    Force,
}

/// What was done, or would be.
#[derive(Debug)]
pub(crate) struct Carried {
    /// Where to.
    pub(crate) project: PathBuf,
    /// Each with its path, in their order.
    pub(crate) changes: Vec<(DiffKind, Bytes)>,
    /// What the project changed since the branch saw it, or since the list was written.
    pub(crate) conflicts: Vec<Bytes>,
}

/// Carries the changes of an exported branch over to the project, or to another directory. With
/// conflicts nothing is done, unless it is forced.
///
/// # Errors
///
/// [`ExportError`]; the changes in front of the one that failed are made.
pub(crate) fn carry(
    directory: &Path,
    project: Option<&Path>,
    mode: Mode,
) -> Result<Carried, ExportError> {
    let list = read(directory)?;
    let project = project.unwrap_or(list.project.as_path()).to_owned();
    let mut conflicts: Vec<Bytes> = list.conflicts.clone();
    let changed = |step: &&Step| Stamp::at(&below(&project, &step.original)) != step.before;
    let changed = list.changes.iter().filter(changed);
    conflicts.extend(changed.map(|step| step.path.clone()));
    conflicts.sort();
    conflicts.dedup();
    let is_refused = mode == Mode::Refuse && !conflicts.is_empty();
    if mode != Mode::DryRun && !is_refused {
        for step in &list.changes {
            carry_step(directory, &project, step)
                .map_err(|error| ExportError::Io(below(&project, &step.path), error))?;
        }
    }
    let changes = list.changes.into_iter();
    Ok(Carried {
        project,
        changes: changes.map(|step| (step.change, step.path)).collect(),
        conflicts,
    })
}

fn read(directory: &Path) -> Result<List, ExportError> {
    let path = directory.join(LIST);
    let text = fs::read(&path).map_err(|error| ExportError::Io(path.clone(), error))?;
    let list: List = serde_json::from_slice(&text)
        .map_err(|error| ExportError::List(path.clone(), error.to_string()))?;
    if list.format != FORMAT {
        let why = format!("it has format {}, not {FORMAT}", list.format);
        return Err(ExportError::List(path, why));
    }
    Ok(list)
}

fn carry_step(directory: &Path, project: &Path, step: &Step) -> io::Result<()> {
    let path = below(project, &step.path);
    match (step.change, &step.after) {
        (DiffKind::Removed, _) => remove(&path, step.mode),
        // There is no path to it.
        (DiffKind::TooDeep, _) => Ok(()),
        (DiffKind::Renamed, _) => fs::rename(below(project, &step.from), &path),
        (DiffKind::Attributes, Some(object)) => set_attributes(&path, object),
        (DiffKind::Added | DiffKind::Content, Some(object)) => make(directory, &path, object),
        (DiffKind::Added | DiffKind::Content | DiffKind::Attributes, None) => {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

fn remove(path: &Path, mode: u32) -> io::Result<()> {
    let removed = if kind_of_mode(mode) == Some(ObjectKind::Directory) {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        // Somebody was there before.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes an object, or gives one its new content.
fn make(directory: &Path, path: &Path, object: &Object) -> io::Result<()> {
    match (&object.content, kind_of_mode(object.mode)) {
        (Some(content), _) => {
            let content = below(directory, content);
            let has_other_names = path
                .symlink_metadata()
                .is_ok_and(|it| it.is_file() && it.nlink() > 1);
            if has_other_names {
                let mut file = File::options().write(true).truncate(true).open(path)?;
                io::copy(&mut File::open(content)?, &mut file)?;
                return set_attributes(path, object);
            }
            put(path, |new| {
                io::copy(&mut File::open(content)?, &mut File::create_new(new)?)?;
                set_attributes(new, object)
            })
        }
        (None, Some(ObjectKind::Directory)) => {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                other => other?,
            }
            set_attributes(path, object)
        }
        (None, Some(ObjectKind::Symlink)) => put(path, |new| {
            symlink(object.target.as_path(), new)?;
            set_attributes(new, object)
        }),
        (None, _) => put(path, |new| {
            make_special(new, object)?;
            set_attributes(new, object)
        }),
    }
}

#[cfg(not(target_vendor = "apple"))]
fn make_special(path: &Path, object: &Object) -> io::Result<()> {
    let kind = rustix::fs::FileType::from_raw_mode(object.mode);
    let mode = rustix::fs::Mode::from_raw_mode(object.mode);
    Ok(rustix::fs::mknodat(CWD, path, kind, mode, object.rdev)?)
}

#[cfg(target_vendor = "apple")]
fn make_special(_: &Path, _: &Object) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Puts something into its place whole: it is made beside it first.
fn put(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".agentfs-{}", std::process::id()));
    let new = path.with_file_name(name);
    let made = make(&new).and_then(|()| fs::rename(&new, path));
    if made.is_err() {
        // What failed is told.
        drop(fs::remove_file(&new));
    }
    made
}

fn set_attributes(path: &Path, object: &Object) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(object.uid), Some(object.gid))?;
    }
    if kind_of_mode(object.mode) != Some(ObjectKind::Symlink) {
        for (name, value) in &object.xattrs {
            let flags = XattrFlags::empty();
            rustix::fs::lsetxattr(path, name.as_path(), value, flags)?;
        }
        fs::set_permissions(path, Permissions::from_mode(object.mode & 0o7777))?;
    }
    let time = Timespec {
        tv_sec: object.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: object.mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
