//! The values of `--echo`.

use agentfs_daemon::EchoMode;

/// When outside changes are replayed through a mount, so that the kernel announces them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum Echo {
    /// When a program without the preloaded library watches there.
    #[default]
    Auto,
    /// Always, on every mount.
    Always,
    /// Never.
    Never,
}

impl From<Echo> for EchoMode {
    fn from(echo: Echo) -> Self {
        match echo {
            Echo::Auto => Self::Auto,
            Echo::Always => Self::Always,
            Echo::Never => Self::Never,
        }
    }
}
