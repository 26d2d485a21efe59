//! The directories to which a branch is exported when the user names none.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Mode};
use rustix::process::geteuid;

use super::ExportError;
use crate::import::target::Metadata;
use crate::utc::time_text;

/// A directory for the changes of all projects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DefaultDirectory {
    directory: PathBuf,
    /// Whether other users may put something beside it: it lies in the directory for temporary files.
    is_exposed: bool,
}

/// Returns where this user's programs keep what is to outlive them (XDG base directory specification).
#[must_use]
pub fn state_directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("XDG_STATE_HOME")
        .filter(|it| it.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".local/state")))
        .filter(|it| it.is_absolute())
}

/// Returns the directories for this user, the best one first. There may be none for a project that
/// contains both.
#[must_use]
pub fn default_directories(project: &Path) -> Vec<DefaultDirectory> {
    let temporary = format!("agentfs-changes-{}", geteuid().as_raw());
    let directories = [
        state_directory().map(|it| DefaultDirectory {
            directory: it.join("agentfs/changes"),
            is_exposed: false,
        }),
        Some(DefaultDirectory {
            directory: std::env::temp_dir().join(temporary),
            is_exposed: true,
        }),
    ];
    // What is exported into the project would be a change of it.
    let is_outside = |it: &DefaultDirectory| {
        project.as_os_str().is_empty() || !it.directory.starts_with(project)
    };
    directories
        .into_iter()
        .flatten()
        .filter(is_outside)
        .collect()
}

impl DefaultDirectory {
    /// Returns the directory for the exports of a project.
    #[must_use]
    pub fn of_project(&self, project: &Path) -> PathBuf {
        let name = project.file_name().unwrap_or("no-project".as_ref());
        self.directory.join(name)
    }

    /// Returns the path of a new directory for an export of a branch, and creates the directories above
    /// it.
    ///
    /// # Errors
    ///
    /// [`ExportError`] when one of those cannot be created, or another user prepared it.
    pub fn prepare(&self, project: &Path, branch: &str) -> Result<PathBuf, ExportError> {
        let failed = |error| ExportError::Io(self.directory.clone(), error);
        if self.is_exposed {
            make_own(&self.directory)?;
        }
        let directory = self.of_project(project);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&directory).map_err(failed)?;
        Ok(directory.join(name(branch)))
    }
}

/// Creates a directory in one that others may write to, or checks that it is this user's alone.
fn make_own(directory: &Path) -> Result<(), ExportError> {
    let failed = |errno: rustix::io::Errno| ExportError::Io(directory.to_owned(), errno.into());
    match rustix::fs::mkdirat(CWD, directory, Mode::RWXU) {
        Err(rustix::io::Errno::EXIST) => {}
        other => other.map_err(failed)?,
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let found = Metadata::of(&rustix::fs::statat(CWD, directory, flags).map_err(failed)?);
    if !found.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(ExportError::Io(directory.to_owned(), error));
    }
    if found.uid != geteuid().as_raw() {
        let (path, uid) = (directory.to_owned(), found.uid);
        return Err(ExportError::Owner { path, uid });
    }
    if found.mode & 0o077 != 0 {
        return Err(ExportError::Writable(directory.to_owned()));
    }
    Ok(())
}

/// Returns a name that no other export has, of the branch, the time and the process.
fn name(branch: &str) -> OsString {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time = time_text(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    let time: String = time.chars().filter(|it| *it != '-' && *it != ':').collect();
    let time = time.replace(' ', "-");
    let mut name = name_prefix(branch);
    name.push(format!("{time}-{}", std::process::id()));
    match COUNT.fetch_add(1, Ordering::Relaxed) {
        0 => {}
        more => name.push(format!("-{more}")),
    }
    name
}

/// Returns how the names of all exports of a branch begin.
#[must_use]
pub fn name_prefix(branch: &str) -> OsString {
    let mut name = OsString::from(branch.replace('/', "-"));
    name.push("-");
    name
}

#[cfg(test)]
mod tests {
    use super::{DefaultDirectory, make_own};
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    #[test]
    fn a_directory_that_somebody_else_prepared_is_refused() {
        let around = tempfile::tempdir().expect("a directory");
        let own = around.path().join("own");
        make_own(&own).expect("a new one");
        make_own(&own).expect("the same again");
        std::fs::set_permissions(&own, Permissions::from_mode(0o777)).expect("changed");
        assert!(make_own(&own).is_err(), "others may write to it");
        let link = around.path().join("link");
        symlink(around.path(), &link).expect("a link");
        assert!(make_own(&link).is_err(), "it leads elsewhere");
        if rustix::process::geteuid().is_root() {
            let theirs = around.path().join("theirs");
            std::fs::create_dir(&theirs).expect("a directory");
            std::fs::set_permissions(&theirs, Permissions::from_mode(0o700)).expect("changed");
            std::os::unix::fs::chown(&theirs, Some(65_534), None).expect("given away");
            assert!(make_own(&theirs).is_err(), "it belongs to another user");
        }
    }

    #[test]
    fn each_export_has_a_directory_of_its_own() {
        let around = tempfile::tempdir().expect("a directory");
        let place = DefaultDirectory {
            directory: around.path().join("changes"),
            is_exposed: true,
        };
        let project = Path::new("/home/me/project");
        let one = place.prepare(project, "a/b").expect("a place");
        let other = place.prepare(project, "a/b").expect("a place");
        assert_ne!(one, other);
        let parent = around.path().join("changes/project");
        assert_eq!(one.parent(), Some(&*parent));
        assert!(parent.is_dir() && !one.exists());
    }
}
