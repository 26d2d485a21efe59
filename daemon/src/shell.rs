//! Commands that are printed for people to type.

use std::ffi::OsStr;

/// A word as a shell reads it.
pub(crate) fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    // It fails for NUL only, which no argument and no path has.
    shlex::try_quote(&word).map_or_else(|_| word.to_string(), |it| it.into_owned())
}
