//! The names that a transaction uses: of the directory in which it stages, and of what it cannot
//! put back.

use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: &[u8] = b".agentfs-";
const SUFFIX: &[u8] = b".tmp";

/// Makes the names of this process different from each other.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Returns the name of the directory in which changes of a project are staged. It is made of the
/// inode number of the project, which a restart of the machine does not change, so a later process
/// finds the directory.
pub(super) fn area_name(project: u64, attempt: u32) -> Vec<u8> {
    let mut name = PREFIX.to_vec();
    name.extend_from_slice(format!("{project}-{attempt}").as_bytes());
    name.extend_from_slice(SUFFIX);
    name
}

/// Returns whether a name is one in which changes are staged: of a directory beside or in a
/// project, or of a file that an earlier version of the program staged beside its place.
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

/// Returns a name for an object of the host that cannot get its own name back.
pub(super) fn kept_name() -> Vec<u8> {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    format!("agentfs-kept-{process}-{count}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_staging_are_known_again() {
        assert!(is_temporary(&area_name(u64::MAX, 3)));
        assert_ne!(area_name(1, 0), area_name(1, 1));
        for name in [
            ".agentfs-.tmp",
            ".agentfs-1.tmp",
            ".agentfs-1-x.tmp",
            "f.tmp",
        ] {
            assert!(!is_temporary(name.as_bytes()), "{name}");
        }
        assert!(!is_temporary(&kept_name()));
    }
}
