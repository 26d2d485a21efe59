//! Tests real watcher programs, unmodified, in a mounted branch: what each of them hears of a
//! change made through the mount, of one made from outside, and of a restored snapshot.
//!
//! By itself this runs the few programs that are small and in Debian. `cargo xtask compat` installs
//! the others, runs all, and compares with docs/compatibility.md or writes it.

#[cfg(target_os = "linux")]
mod mounted_branch;
#[cfg(target_os = "linux")]
mod notify_watch;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod running;
#[cfg(target_os = "linux")]
mod select;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod trial;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    select::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
