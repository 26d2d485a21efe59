//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! A branch of FsCore as a FUSE mount, so that any program can work in it. [`Mounts`] holds all
//! mounts of a filesystem. Programs on a mount are the actors; what they do becomes operations of
//! FsCore with [`Origin::Mount`](agentfs_core::event::Origin::Mount). Changes of other origins are
//! taken out of the kernel's caches before they are delivered to any watcher.
//!
//! ```no_run
//! use agentfs_core::{FsConfig, FsCore};
//! use agentfs_mount::{MountOptions, Mounts};
//!
//! let fs = FsCore::new(FsConfig::default())?;
//! let mounts = Mounts::new(&fs)?;
//! let mount = mounts.mount(FsCore::MAIN, "/mnt/work".as_ref(), &MountOptions::default())?;
//! std::fs::write("/mnt/work/hello", "from any program")?;
//! mount.unmount(false)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The server does not check permissions and does not lock files: the kernel does both, by
//! `default_permissions` and among the programs of one mount. Two mounts of one branch do not share
//! locks, because a program that waits for a lock of the server could not be killed. So programs that
//! lock files against each other belong on one mount (a bind mount counts as the same). Files without a
//! name (`O_TMPFILE`) are refused with `EOPNOTSUPP`.
//!
//! The kernel's writeback cache is not used, because the kernel would trust its own sizes and times.
//! Its passthrough of reads is not used either, because a file that is open in this way cannot be turned
//! to the branch's own content when a program writes to it. The kernel opens directories without asking
//! the server, so no event says that a directory was opened, read or closed.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod adapter;
mod adopted_handles;
mod convert;
mod cpu_affinity;
mod echo;
mod error;
mod keeper;
mod kept;
mod kernel_cache;
mod kernel_mount;
mod location;
mod mounts;
mod notifications;
mod open_files;
mod options;
mod other_namespace;
mod readdir_cache;
mod reply;
mod requests;
mod resent;
mod retries;
mod server;
mod session;

pub use error::{LeaveError, MountError, UnmountError};
pub use keeper::{KeeperOptions, TakeError, keep, kept_in, take};
pub use kept::{Kept, NotSaved, SavedMount};
pub use mounts::{Echoes, MountHandle, MountInfo, Mounts, Settler};
pub use options::MountOptions;
pub use other_namespace::{Unserved, mount_elsewhere};
pub use session::{check_device, clear_dead};
