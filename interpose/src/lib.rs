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

#![cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "some of it serves inotify only")
)]

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod config;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod connection;
mod fd_table;
mod guard;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod hidden_fd;
#[cfg(target_os = "linux")]
mod hooks;
#[cfg(target_os = "linux")]
mod inotify;
pub mod kqueue;
mod lock;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod mounts;
#[cfg(target_os = "linux")]
mod real;

/// A descriptor of the program is about to be closed.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn closing(fd: std::os::fd::RawFd) {
    kqueue::closing(fd);
    #[cfg(target_os = "linux")]
    inotify::closing(fd);
}

/// A descriptor of the program has another number, too.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn duplicated(from: std::os::fd::RawFd, to: std::os::fd::RawFd) {
    kqueue::duplicated(from, to);
    #[cfg(target_os = "linux")]
    inotify::duplicated(from, to);
}

/// What a child of fork does before anything else.
fn in_forked_child() {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    connection::in_forked_child();
    #[cfg(target_os = "linux")]
    inotify::in_forked_child();
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    kqueue::in_forked_child();
}
