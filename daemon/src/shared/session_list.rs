//! What the next daemon has to know of the sessions of this one: small files in the directory of the
//! store, which only its user may read.
//!
//! They are for a daemon that is killed while programs go on, and no program outlives a power cut. So
//! nothing is synced, and a file that cannot be read is taken for an empty one.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Longer than any list that a daemon writes: one line for each branch.
const LONGEST: u64 = 16 << 20;

/// One list.
#[derive(Debug)]
pub(crate) struct SessionList(PathBuf);

impl SessionList {
    /// Names a list in the directory of a store.
    pub(crate) fn new(store: &Path, name: &str) -> Self {
        Self(store.join(name))
    }

    /// Returns the text of the list; nothing if there is none.
    pub(crate) fn read(&self) -> String {
        let mut text = String::new();
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        let opened = File::options()
            .read(true)
            .custom_flags(nofollow)
            .open(&self.0);
        let read = opened.and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let list = self.0.display();
                tracing::warn!(%list, %error, "what earlier sessions had is not known");
            }
        }
        text
    }

    /// Replaces the list. When this returns, the next daemon finds the new one. An error is logged: the
    /// sessions go on, and only a daemon that comes after this one knows less.
    pub(crate) fn write(&self, text: &str) {
        if let Err(error) = self.replace(text) {
            let list = self.0.display();
            tracing::warn!(%list, %error, "the next daemon will not know what the sessions have");
        }
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.0.with_extension("new");
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options.open(&new)?.write_all(text.as_bytes())?;
        fs::rename(new, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_last_and_by_its_user_alone() {
        let store = tempfile::tempdir().unwrap();
        let list = SessionList::new(store.path(), "tokens");
        assert_eq!(list.read(), "");
        for text in ["one\n", "two\nthree\n"] {
            list.write(text);
            assert_eq!(SessionList::new(store.path(), "tokens").read(), text);
        }
        let found = fs::metadata(store.path().join("tokens")).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_list_is_passed_over() {
        let store = tempfile::tempdir().unwrap();
        fs::write(store.path().join("secret"), "text").unwrap();
        std::os::unix::fs::symlink("secret", store.path().join("tokens")).unwrap();
        assert_eq!(SessionList::new(store.path(), "tokens").read(), "");
        fs::write(store.path().join("holds"), [0xFF, b'\n']).unwrap();
        assert_eq!(SessionList::new(store.path(), "holds").read(), "");
    }
}
