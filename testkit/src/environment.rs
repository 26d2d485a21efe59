//! Reads what the environment asks of a test.

use std::fs::File;

/// Returns the number in a variable, if that is set.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Set to leave out, loudly, what needs /dev/fuse.
const SKIP: &str = "AGENTFS_SKIP_FUSE_TESTS";

/// The device through which a program serves a mount.
const DEVICE: &str = "/dev/fuse";

/// Returns whether mounts are tested here: whether this process may open `/dev/fuse`.
///
/// Where mounting does not work the test fails, unless `AGENTFS_SKIP_FUSE_TESTS` is set.
#[track_caller]
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
pub fn can_mount() -> bool {
    let opened = File::options().read(true).write(true).open(DEVICE);
    let Err(error) = opened else {
        return true;
    };
    assert!(
        std::env::var_os(SKIP).is_some(),
        "mounts cannot be tested here: {DEVICE}: {error}; set {SKIP}=1 to leave them out"
    );
    eprintln!("LEFT OUT ({SKIP} is set): {DEVICE}: {error}");
    false
}
