//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> **Hook**
//!
//! The library that is preloaded into unmodified programs, so that they hear of changes in AgentFS
//! through the calls they already make.
//!
//! ```text
//! LD_PRELOAD=/path/to/libagentfs_interpose_shim.so inotifywait -m -r project
//! ```
//!
//! A program's own calls come here first (`hooks`), and jump to the originals (`real`) at once unless
//! the descriptor is one that the table (`fd_table`) has: an inotify instance with a watch on
//! AgentFS. What such an instance needs is in `inotify`, and what is said to the daemon in
//! `connection`.
//!
//! It deliberately starts no thread, prints nothing, writes to no filesystem, and touches no call
//! but those that wait for events and those that make, copy and close descriptors. It does not open, read or
//! change files for the program; that is what the mount is for. Without a daemon every call does what
//! it does without the library.

#[cfg(target_os = "linux")]
mod config;
#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod context;
#[cfg(target_os = "linux")]
mod fd_table;
#[cfg(target_os = "linux")]
mod hidden;
#[cfg(target_os = "linux")]
mod hooks;
#[cfg(target_os = "linux")]
mod inotify;
pub mod kqueue;
#[cfg(target_os = "linux")]
mod lock;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod real;

/// What a child of fork does before anything else.
#[cfg(target_os = "linux")]
fn in_forked_child() {
    connection::in_forked_child();
    inotify::in_forked_child();
}
