//! Which mounts get an echo.

/// On which mounts changes from outside are repeated for the kernel, so that it announces them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EchoMode {
    /// Where a program without the preloaded library watches.
    #[default]
    Auto,
    /// On every mount.
    Always,
    /// Nowhere.
    Never,
}
