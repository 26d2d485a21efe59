//! Renames that compare and swap: they take back what they did when another program was there
//! first.
//!
//! Each function returns whether the rename was done. It is not done when the host has something
//! else there than was expected; then the host is as it was.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::AtFlags;
use rustix::io::Errno as HostErrno;

use crate::lower::Fingerprint;
use crate::model::errno::{Errno, Result};

const PREFIX: &[u8] = b".agentfs-";
const SUFFIX: &[u8] = b".tmp";

/// Makes the names of this process different from each other.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Returns a name for a file beside its place that no other process uses. A watcher of the
/// directory recognises it by its form ([`is_temporary`]) and ignores it.
#[must_use]
pub fn temporary_name() -> Vec<u8> {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let mut name = PREFIX.to_vec();
    name.extend_from_slice(format!("{process}-{count}").as_bytes());
    name.extend_from_slice(SUFFIX);
    name
}

/// Returns whether a name is one that [`temporary_name`] has returned, in whatever process.
#[must_use]
pub fn is_temporary(name: &[u8]) -> bool {
    let middle = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_suffix(SUFFIX));
    middle.is_some_and(|middle| {
        let mut numbers = middle.split(|byte| *byte == b'-');
        let is_number = |part: Option<&[u8]>| {
            part.is_some_and(|it| !it.is_empty() && it.iter().all(u8::is_ascii_digit))
        };
        is_number(numbers.next()) && is_number(numbers.next()) && numbers.next().is_none()
    })
}

/// A name in an open directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) name: &'a [u8],
}

/// What is expected at a name: the object, and whether the time of its last change of any kind
/// counts. It does not count if this process has moved or linked the object since it was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) fingerprint: Fingerprint,
    pub(super) exact: bool,
}

impl Expected {
    /// Returns whether the object is still there, untouched.
    fn is_at(&self, at: At<'_>) -> Result<bool> {
        let now = fingerprint_at(at)?;
        Ok(now.is_some_and(|now| {
            if self.exact {
                now == self.fingerprint
            } else {
                now.is_same_content(&self.fingerprint)
            }
        }))
    }

    /// Returns whether the object is the one that was moved to this name. Moving changes its time
    /// of change.
    fn came_to(&self, at: At<'_>) -> Result<bool> {
        Ok(fingerprint_at(at)?.is_some_and(|now| now.is_same_content(&self.fingerprint)))
    }
}

fn fingerprint_at(at: At<'_>) -> Result<Option<Fingerprint>> {
    match rustix::fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Fingerprint::of(&stat))),
        Err(HostErrno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What the host's filesystem can do.
#[derive(Debug, Default)]
pub(super) struct Swap {
    /// Whether it cannot exchange two names, or cannot rename without replacing. Then each name is
    /// looked at right before the rename, and a change that the host makes in between is lost.
    plain: Cell<bool>,
}

impl Swap {
    /// Moves an object from its temporary name to its place, which is free.
    pub(super) fn place(&self, temporary: At<'_>, to: At<'_>) -> Result<bool> {
        if !self.plain.get() {
            match no_replace(temporary, to) {
                Ok(()) => return Ok(true),
                Err(HostErrno::EXIST) => return Ok(false),
                Err(errno) => self.fall_back_to_plain(errno)?,
            }
        }
        if fingerprint_at(to)?.is_some() {
            return Ok(false);
        }
        rustix::fs::renameat(temporary.dir, temporary.name, to.dir, to.name)?;
        Ok(true)
    }

    /// Moves what is at `from` to the place of what is expected at `to`. That is at `from`
    /// afterwards, or gone.
    pub(super) fn exchange(&self, from: Source<'_>, to: (At<'_>, &Expected)) -> Result<bool> {
        if !are_there(from, to)? {
            return Ok(false);
        }
        if !self.plain.get() {
            match self.exchange_and_compare(from, to) {
                Ok(is_done) => return Ok(is_done),
                Err(Failed::Unsupported(errno)) => self.fall_back_to_plain(errno)?,
                Err(Failed::With(errno)) => return Err(errno),
            }
            if !are_there(from, to)? {
                return Ok(false);
            }
        }
        let (new, old) = (from.0, to.0);
        rustix::fs::renameat(new.dir, new.name, old.dir, old.name)?;
        Ok(true)
    }

    /// Exchanges two names. What is at `from` then must be what was expected; otherwise it is put
    /// back.
    fn exchange_and_compare(
        &self,
        from: Source<'_>,
        to: (At<'_>, &Expected),
    ) -> Result<bool, Failed> {
        let (new, old) = (from.0, to.0);
        match exchange(new, old) {
            Ok(()) => {}
            Err(HostErrno::NOENT) => return Ok(false),
            Err(errno) => return Err(Failed::Unsupported(errno)),
        }
        let arrived = from
            .1
            .is_none_or(|expected| expected.came_to(old) == Ok(true));
        if arrived && to.1.came_to(new) == Ok(true) {
            return Ok(true);
        }
        self.exchange_back(new, old)?;
        Ok(false)
    }

    /// Takes an exchange back.
    pub(super) fn exchange_back(&self, new: At<'_>, old: At<'_>) -> Result<()> {
        match exchange(new, old) {
            Ok(()) => Ok(()),
            // The host has removed what was put there, so its own object gets its name back.
            Err(HostErrno::NOENT) => self.put_back(new, old),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves what is expected at `from` to a name that is free.
    pub(super) fn rename(&self, from: (At<'_>, &Expected), to: At<'_>) -> Result<bool> {
        if !from.1.is_at(from.0)? || !self.place_from(from.0, to)? {
            return Ok(false);
        }
        if from.1.came_to(to)? {
            return Ok(true);
        }
        self.put_back(to, from.0)?;
        Ok(false)
    }

    /// Moves what is expected at `from` to the place of what is expected at `to`, which is removed;
    /// neither is a directory. This goes by a temporary name, so that a watcher of the host sees no
    /// exchange of two names.
    pub(super) fn replace(
        &self,
        from: (At<'_>, &Expected),
        to: (At<'_>, &Expected),
    ) -> Result<bool> {
        let temporary = temporary_name();
        let aside = At {
            dir: to.0.dir,
            name: &temporary,
        };
        if !self.rename(from, aside)? {
            return Ok(false);
        }
        let moved = Expected {
            exact: false,
            ..*from.1
        };
        match self.exchange((aside, Some(&moved)), to) {
            Ok(true) => {}
            other => {
                self.put_back(aside, from.0)?;
                return other;
            }
        }
        match rustix::fs::unlinkat(aside.dir, aside.name, AtFlags::empty()) {
            // Where names cannot be exchanged, nothing is left at the temporary name.
            Ok(()) | Err(HostErrno::NOENT) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes what is expected at `from`, which is no directory, by a temporary name. A name that
    /// is gone already counts as removed.
    pub(super) fn remove(&self, from: At<'_>, expected: &Expected) -> Result<bool> {
        if fingerprint_at(from)?.is_none() {
            return Ok(true);
        }
        let temporary = temporary_name();
        let aside = At {
            dir: from.dir,
            name: &temporary,
        };
        if !self.rename((from, expected), aside)? {
            return Ok(fingerprint_at(from)?.is_none());
        }
        rustix::fs::unlinkat(aside.dir, aside.name, AtFlags::empty())?;
        Ok(true)
    }

    /// Moves an object as [`place`](Self::place) does, unless it is no longer there.
    fn place_from(&self, from: At<'_>, to: At<'_>) -> Result<bool> {
        match self.place(from, to) {
            Err(Errno::ENOENT) => Ok(false),
            other => other,
        }
    }

    /// Moves the host's own object back to its name, unless the host has created another object there
    /// since.
    fn put_back(&self, from: At<'_>, to: At<'_>) -> Result<()> {
        if self.place(from, to)? {
            return Ok(());
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("agentfs-kept-{}-{count}", std::process::id());
        let kept = At {
            dir: from.dir,
            name: name.as_bytes(),
        };
        self.place(from, kept)?;
        tracing::error!(
            name = %String::from_utf8_lossy(to.name),
            kept_as = name,
            "a file was changed and made anew on the host while it was applied; both are there"
        );
        Ok(())
    }

    /// Records that the filesystem has no such renames. Any other error is returned.
    fn fall_back_to_plain(&self, errno: HostErrno) -> Result<()> {
        if !matches!(
            errno,
            HostErrno::INVAL | HostErrno::NOSYS | HostErrno::OPNOTSUPP
        ) {
            return Err(errno.into());
        }
        if !self.plain.replace(true) {
            tracing::warn!(
                "the filesystem cannot exchange names; each path is looked at right before it is \
                 replaced, and what is changed between the two is overwritten"
            );
        }
        Ok(())
    }
}

/// What takes a name, and what is expected of it, unless it is a staged object.
type Source<'a> = (At<'a>, Option<&'a Expected>);

/// Why an exchange was not made.
#[derive(Debug)]
enum Failed {
    /// The filesystem may not support it.
    Unsupported(HostErrno),
    With(Errno),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::With(errno)
    }
}

fn are_there(from: Source<'_>, to: (At<'_>, &Expected)) -> Result<bool> {
    let source = from.1.map_or(Ok(true), |expected| expected.is_at(from.0))?;
    Ok(source && to.1.is_at(to.0)?)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn renamed(from: At<'_>, to: At<'_>, flags: rustix::fs::RenameFlags) -> Result<(), HostErrno> {
    rustix::fs::renameat_with(from.dir.as_fd(), from.name, to.dir.as_fd(), to.name, flags)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(one: At<'_>, other: At<'_>) -> Result<(), HostErrno> {
    renamed(one, other, rustix::fs::RenameFlags::EXCHANGE)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn no_replace(from: At<'_>, to: At<'_>) -> Result<(), HostErrno> {
    renamed(from, to, rustix::fs::RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: At<'_>, _: At<'_>) -> Result<(), HostErrno> {
    Err(HostErrno::NOSYS)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn no_replace(_: At<'_>, _: At<'_>) -> Result<(), HostErrno> {
    Err(HostErrno::NOSYS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    struct Files {
        directory: tempfile::TempDir,
        dir: OwnedFd,
    }

    impl Files {
        /// `new` beside `old`.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in ["new", "old"] {
                fs::write(directory.path().join(name), name).unwrap();
            }
            let dir = fs::File::open(directory.path()).unwrap().into();
            Self { directory, dir }
        }

        fn path(&self) -> &Path {
            self.directory.path()
        }

        fn at<'a>(&'a self, name: &'a str) -> At<'a> {
            At {
                dir: &self.dir,
                name: name.as_bytes(),
            }
        }

        fn expected(&self, name: &str) -> Expected {
            let fingerprint = Fingerprint::at(&self.dir, name.as_bytes()).unwrap();
            Expected {
                fingerprint,
                exact: true,
            }
        }

        /// Every name with its content.
        fn all(&self) -> Vec<(String, String)> {
            let names = fs::read_dir(self.path()).unwrap();
            let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
            let mut all: Vec<_> = names
                .map(|name| {
                    let text = fs::read_to_string(self.path().join(&name)).unwrap();
                    (name, text)
                })
                .collect();
            all.sort();
            all
        }
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        all.iter().map(pair).collect()
    }

    /// Both ways: with exchange, and as on a filesystem that has none.
    fn both(test: impl Fn(&Swap)) {
        test(&Swap::default());
        let plain = Swap::default();
        plain.plain.set(true);
        test(&plain);
    }

    #[test]
    fn what_is_expected_is_replaced_moved_and_removed() {
        both(|swap| {
            let files = Files::new();
            let old = files.expected("old");
            let is_done = swap.exchange((files.at("new"), None), (files.at("old"), &old));
            assert_eq!(is_done, Ok(true));
            assert_eq!(fs::read_to_string(files.path().join("old")).unwrap(), "new");
            let now = files.expected("old");
            let moved = swap.rename((files.at("old"), &now), files.at("moved"));
            assert_eq!(moved, Ok(true));
            let moved = files.expected("moved");
            fs::write(files.path().join("over"), "over").unwrap();
            let over = files.expected("over");
            let to = (files.at("over"), &over);
            assert_eq!(swap.replace((files.at("moved"), &moved), to), Ok(true));
            let left = files.all().into_iter().filter(|(name, _)| name != "new");
            assert_eq!(left.collect::<Vec<_>>(), pairs(&[("over", "new")]));
            let moved = files.expected("over");
            assert_eq!(swap.remove(files.at("over"), &moved), Ok(true));
            assert!(!files.path().join("moved").exists());
            assert_eq!(swap.remove(files.at("moved"), &moved), Ok(true));
        });
    }

    #[test]
    fn what_is_not_expected_stays() {
        both(|swap| {
            let files = Files::new();
            let old = files.expected("old");
            fs::write(files.path().join("old"), "edited").unwrap();
            let before = files.all();
            let (new, at) = (files.at("new"), files.at("old"));
            assert_eq!(swap.exchange((new, None), (at, &old)), Ok(false));
            assert_eq!(swap.rename((at, &old), files.at("moved")), Ok(false));
            assert_eq!(swap.remove(at, &old), Ok(false));
            let own = files.expected("new");
            assert_eq!(swap.replace((new, &own), (at, &old)), Ok(false));
            assert_eq!(swap.place(new, at), Ok(false));
            assert_eq!(files.all(), before);
            fs::remove_file(files.path().join("old")).unwrap();
            assert_eq!(swap.exchange((new, None), (at, &old)), Ok(false));
            assert_eq!(files.all(), pairs(&[("new", "new")]));
        });
    }

    /// As if the host had written between the comparison and the exchange.
    #[test]
    fn what_came_out_of_an_exchange_goes_back_unless_it_was_expected() {
        let files = Files::new();
        let stale = files.expected("old");
        fs::write(files.path().join("old"), "edited").unwrap();
        let swap = Swap::default();
        let old = (files.at("old"), &stale);
        let is_done = swap.exchange_and_compare((files.at("new"), None), old);
        assert!(matches!(is_done, Ok(false)), "{is_done:?}");
        assert_eq!(files.all(), pairs(&[("new", "new"), ("old", "edited")]));
    }

    #[test]
    fn what_cannot_go_back_is_kept_under_another_name() {
        let files = Files::new();
        Swap::default()
            .put_back(files.at("new"), files.at("old"))
            .unwrap();
        let all = files.all();
        assert_eq!(all.len(), 2);
        assert!(all[0].0.starts_with("agentfs-kept-"), "{all:?}");
        assert_eq!(all[0].1, "new");
        assert_eq!(all[1], ("old".to_owned(), "old".to_owned()));
    }

    #[test]
    fn temporary_names_are_known_again() {
        assert!(is_temporary(&temporary_name()));
        assert_ne!(temporary_name(), temporary_name());
        for name in [
            ".agentfs-.tmp",
            ".agentfs-1.tmp",
            ".agentfs-1-x.tmp",
            "f.tmp",
        ] {
            assert!(!is_temporary(name.as_bytes()), "{name}");
        }
    }
}
