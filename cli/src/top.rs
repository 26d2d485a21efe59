//! `agentfs top`: the status, again and again.

use std::io::IsTerminal as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::common::Common;
use crate::output::Output;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::status;

/// Show the status again and again, until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs top
  agentfs top --interval 0.2 --count 10 --json")]
pub(crate) struct TopArgs {
    /// Seconds from one report to the next
    #[arg(short, long, default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// End after this many reports
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.01 to 86400".to_owned()),
    }
}

/// Moves the cursor into the upper left corner and clears the screen.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

pub(crate) fn run(common: &Common, args: TopArgs, output: &mut Output) -> Result<(), Failure> {
    let mut connection = DaemonConnection::look_at_running(common)?;
    let (signal, write) = UnixStream::pair().map_err(Failure::Input)?;
    for number in [SIGINT, SIGTERM] {
        let write = write.try_clone().map_err(Failure::Input)?;
        signal_hook::low_level::pipe::register(number, write).map_err(Failure::Input)?;
    }
    let is_screen = std::io::stdout().is_terminal() && !output.is_json();
    let interval = Duration::from_secs_f64(args.interval);
    let mut looks = 0;
    loop {
        let report = status::fetch(&mut connection)?;
        if is_screen {
            output.raw(CLEAR)?;
        }
        if output.is_json() {
            output.json(&connection.with_project(&report))?;
        } else {
            output.line(status::text(&report, &connection.project))?;
        }
        output.flush().map_err(Failure::Output)?;
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) || is_signalled(&signal, interval)? {
            return Ok(());
        }
    }
}

/// Waits for the interval. Returns true when a signal came.
fn is_signalled(signal: &UnixStream, interval: Duration) -> Result<bool, Failure> {
    let timeout = Timespec::try_from(interval).ok();
    match poll(&mut [PollFd::new(signal, PollFlags::IN)], timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(Failure::Other(format!("waiting failed: {error}"))),
    }
}
