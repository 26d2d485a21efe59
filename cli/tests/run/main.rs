//! Checks the commands that `agentfs` runs: what they hear, see and leave behind.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod again;
mod apply;
mod crowd;
mod demo;
mod doctor;
mod echo;
mod echo_inside;
mod ending;
mod exec;
mod exporting;
mod frozen;
mod guide;
mod host_replaces;
mod keeping;
mod lower_gone;
mod merging;
mod missed;
mod ordinary;
mod outliving;
mod project;
mod projects;
mod replaced;
mod roots;
mod session;
mod store;
mod terminal;
mod waiting;
mod watchers;
