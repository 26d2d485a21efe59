//! Daemons in the test's own process.

use agentfs_daemon::{Config, Daemon, SessionLimits};
use agentfs_testkit::daemon::private_directory;
use tempfile::TempDir;

/// A daemon in this process, with limits of its own.
pub(crate) fn daemon_with(limits: SessionLimits) -> (Daemon, TempDir) {
    let directory = private_directory();
    let mut config = Config::new(directory.path().join("control.sock"));
    config.limits = limits;
    (Daemon::start(config).unwrap(), directory)
}
