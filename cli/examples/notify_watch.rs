//! A watcher on the notify crate, which knows nothing of AgentFS: what the tests run under the
//! preloaded library beside other people's programs.
//!
//! ```text
//! notify_watch DIRECTORY
//! ```
//!
//! Prints "ready", then one line for each event but that something was opened. Its end of input ends it.
#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::unwrap_used,
        clippy::print_stdout,
        reason = "a program for tests, that fails by panicking"
    )
)]

#[cfg(target_os = "linux")]
fn main() {
    use notify::event::{AccessKind, EventKind};
    use notify::{RecursiveMode, Watcher as _};

    let directory = std::env::args_os().nth(1).unwrap();
    let mut watcher = notify::recommended_watcher(|event: notify::Result<notify::Event>| {
        let event = event.unwrap();
        // The watcher's own look at a new directory is one, sooner or later.
        if matches!(event.kind, EventKind::Access(AccessKind::Open(_))) {
            return;
        }
        let paths: Vec<_> = event.paths.iter().map(|it| it.to_str().unwrap()).collect();
        let line = format!("{:?} {}", event.kind, paths.join(" "));
        println!("{line}");
    })
    .unwrap();
    watcher
        .watch(directory.as_ref(), RecursiveMode::Recursive)
        .unwrap();
    println!("ready");
    std::io::read_to_string(std::io::stdin()).unwrap();
}

#[cfg(not(target_os = "linux"))]
fn main() {}
