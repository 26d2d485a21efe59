//! Who is told by echo, as it is asked for.

/// When changes are told by the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum EchoMode {
    /// Where a program without the preloaded library watches.
    #[default]
    Auto,
    /// On every mount.
    Always,
    /// Nowhere.
    Never,
}
