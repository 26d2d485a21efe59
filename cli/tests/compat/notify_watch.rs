//! A program that uses the notify crate: this test program itself, started once more.

use std::path::Path;
use std::sync::mpsc::channel;

use notify::{RecursiveMode, Watcher as _};

/// The argument that makes this program a watcher.
pub(crate) const ARGUMENT: &str = "--watch-with-notify";

/// Prints what happens in the working directory, without end.
#[expect(clippy::print_stdout, reason = "a program that prints what it hears")]
pub(crate) fn run() -> notify::Result<()> {
    let (sender, events) = channel();
    let mut watcher = notify::recommended_watcher(sender)?;
    watcher.watch(Path::new("."), RecursiveMode::Recursive)?;
    println!("ready");
    for event in events {
        let event = event?;
        println!("{:?} {:?}", event.kind, event.paths);
    }
    Ok(())
}
