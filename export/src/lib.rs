//! actor -> **FsCore operation** -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! Exports what a branch changed to a directory of the host, and imports such a directory into a
//! project later. The daemon and `agentfs apply` use it when what becomes of the changes is decided
//! later.
//!
//! The directory holds `changes.json`, the list of the changes in an order in which they can be applied,
//! and `files/`, the new contents under their paths. The list also says what the project had at each
//! place, so that an import finds what was changed there since. The list names each file of the branch
//! that cannot be read, and `parts/` holds what the branch itself wrote of such a file.
//!
//! [`write()`] exports: it fills a directory under another name and renames it when it is whole.
//! [`import()`] surveys the project and applies the steps that are left. Neither follows a symbolic link
//! below the directory that it was given ([`Source`], [`Target`]), and both end at once when their
//! [`CancelToken`] is cancelled.

mod cancel;
mod changes;
pub mod command;
mod content;
mod copy;
mod default_directory;
mod error;
mod import;
mod moves;
#[cfg_attr(target_os = "linux", path = "platform/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "platform/other.rs")]
mod platform;
mod rename;
pub mod utc;
mod write;

pub use self::cancel::CancelToken;
pub use self::changes::{Identity, List, UnreadFile};
pub use self::default_directory::{
    DefaultDirectory, default_directories, name_prefix, state_directory,
};
pub use self::error::ExportError;
pub use self::import::source::Source;
pub use self::import::target::Target;
pub use self::import::{Imported, Mode, import};
pub use self::write::{Origin, write};
