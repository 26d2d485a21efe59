//! Which mounts get an echo.

/// When changes from outside a mount are made known by the kernel.
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
