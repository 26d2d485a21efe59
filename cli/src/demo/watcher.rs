//! A watcher as any program has one: plain inotify calls, and nothing of AgentFS. The demo starts it as
//! a program of its own where inotifywait is not installed.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use crate::output::Output;
use crate::output::failure::Failure;

/// Print what is created and modified in a directory (what `demo` starts without inotifywait)
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentfs plain-watcher .")]
pub(crate) struct PlainWatcherArgs {
    /// The directory
    directory: PathBuf,
}

/// Prints events as `inotifywait -m -e create,modify --format '%e %f'` does, until a signal comes.
pub(crate) fn run(args: &PlainWatcherArgs, output: &mut Output) -> Result<(), Failure> {
    let shown = args.directory.display();
    let failed = |errno: nix::errno::Errno| Failure::Other(format!("{shown}: {errno}"));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
    let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY;
    inotify.add_watch(&args.directory, mask).map_err(failed)?;
    writeln!(io::stderr(), "Watches established.").map_err(Failure::Output)?;
    loop {
        for event in inotify.read_events().map_err(failed)? {
            output.line(text(&event))?;
        }
        output.flush().map_err(Failure::Output)?;
    }
}

fn text(event: &InotifyEvent) -> String {
    let names = [
        (AddWatchFlags::IN_CREATE, "CREATE"),
        (AddWatchFlags::IN_MODIFY, "MODIFY"),
        (AddWatchFlags::IN_Q_OVERFLOW, "Q_OVERFLOW"),
        (AddWatchFlags::IN_IGNORED, "IGNORED"),
        (AddWatchFlags::IN_UNMOUNT, "UNMOUNT"),
        (AddWatchFlags::IN_ISDIR, "ISDIR"),
    ];
    let of_event = names.iter().filter(|(flag, _)| event.mask.contains(*flag));
    let kinds: Vec<&str> = of_event.map(|(_, name)| *name).collect();
    let name = event.name.as_deref().unwrap_or_default();
    format!("{} {}", kinds.join(","), name.display())
}
