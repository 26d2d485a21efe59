//! `agentfs watch`: a native subscriber.

use std::os::unix::net::UnixStream;

use agentfs_client::{Event, EventKind, Subscription, SubscriptionError, SubscriptionOptions};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::record::Kind;
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::common::Common;
use crate::fs::path_argument;
use crate::output::Output;
use crate::output::failure::Failure;
use crate::project::connection::{DaemonConnection, PATIENCE};

/// Print changes at and below a path as they happen
///
/// Use it in scripts, and to see what happens in a branch. A program that watches files by itself does not
/// need it: start that program with `agentfs run` or `agentfs exec`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs watch
  agentfs watch /src --branch attempt-1
  agentfs watch /src --json | jq .path
  agentfs watch /src --count 1 && make")]
pub(crate) struct WatchArgs {
    /// The path in the branch, which need not exist yet
    #[arg(value_parser = path_argument, default_value = "/")]
    path: Bytes,
    /// The branch, instead of the one of the run or the mount that you are in,
    /// or else main
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    branch: String,
    /// Also print when files are opened, read and closed
    #[arg(long)]
    activity: bool,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The size of the event queue in bytes, a power of two; 0 is the default. A larger one holds a longer
    /// burst
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    ring: u32,
}

pub(crate) fn run(common: &Common, args: WatchArgs, output: &mut Output) -> Result<(), Failure> {
    let connection = DaemonConnection::open_to_look(common, &args.branch)?;
    let (of_project, with_project) = (connection.of_project(), connection.project_name());
    let DaemonConnection {
        client, welcome, ..
    } = connection;
    let options = SubscriptionOptions::new()
        .path(args.path.as_path())
        .activity(args.activity)
        .ring_capacity(args.ring)
        .patience(PATIENCE);
    let subscription = Subscription::over(client, options);
    let mut subscription = subscription.map_err(|error| failure(&args.path, error))?;
    let signal = signals()?;
    let branch = welcome.branch_name;
    if output.is_json() {
        let ready = serde_json::json!({
            "watching": args.path, "branch": branch, "project": with_project,
        });
        output.json(&ready)?;
    } else {
        output.line(format_args!(
            "watching {} of branch {branch}{of_project}, until Ctrl-C",
            args.path
        ))?;
    }
    output.flush().map_err(Failure::Output)?;
    let mut printed = 0;
    while args.count.is_none_or(|count| printed < count) {
        let next = subscription.try_next();
        if let Some(event) = next.map_err(|error| failure(&args.path, error))? {
            print_event(&event, output)?;
            printed += 1;
            continue;
        }
        output.flush().map_err(Failure::Output)?;
        if is_signalled(&subscription, &signal)? {
            break;
        }
    }
    Ok(())
}

fn failure(path: &Bytes, error: SubscriptionError) -> Failure {
    match error {
        SubscriptionError::Connect(error) => Failure::Connect(error),
        SubscriptionError::Call(error) => Failure::Call(path.to_string(), error),
        SubscriptionError::Open(_)
        | SubscriptionError::Corrupt(_)
        | SubscriptionError::Record(_)
        | SubscriptionError::Doorbell(_)
        | SubscriptionError::Shared
        | SubscriptionError::DaemonGone => Failure::Other(error.to_string()),
        _ => Failure::Other(format!("watching {path} failed: {error}")),
    }
}

/// Returns a stream that is readable after a signal that ends the watch.
fn signals() -> Result<UnixStream, Failure> {
    let (signal, write) = UnixStream::pair().map_err(Failure::Input)?;
    for number in [SIGINT, SIGTERM] {
        let write = write.try_clone().map_err(Failure::Input)?;
        signal_hook::low_level::pipe::register(number, write).map_err(Failure::Input)?;
    }
    Ok(signal)
}

/// Waits until there may be an event, or a signal has come. Returns true for a signal.
fn is_signalled(subscription: &Subscription, signal: &UnixStream) -> Result<bool, Failure> {
    let mut fds = [
        PollFd::new(subscription, PollFlags::IN),
        PollFd::new(signal, PollFlags::IN),
    ];
    let woken = rustix::io::retry_on_intr(|| poll(&mut fds, None));
    woken.map_err(|error| Failure::Other(format!("waiting failed: {error}")))?;
    Ok(!fds[1].revents().is_empty())
}

/// One event in JSON.
#[derive(Serialize)]
struct EventJson {
    kind: String,
    path: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_path: Option<Bytes>,
    directory: bool,
    attributes: bool,
    healed: bool,
    seq: u64,
    time_ns: u64,
    node: u64,
    pid: u64,
}

fn print_event(event: &Event, output: &mut Output) -> Result<(), Failure> {
    let path = Bytes::from(event.path.as_path());
    let new_path = if let EventKind::Renamed { to } = &event.kind {
        Some(Bytes::from(to.as_path()))
    } else {
        None
    };
    let kind = name(&event.kind);
    if output.is_json() {
        return output.json(&EventJson {
            kind: kind.to_owned(),
            path,
            new_path,
            directory: event.is_directory,
            attributes: event.is_attributes,
            healed: event.is_healed,
            seq: event.sequence,
            time_ns: event.time_ns,
            node: event.node,
            pid: event.actor,
        });
    }
    let slash = if event.is_directory && path.last() != Some(&b'/') {
        "/"
    } else {
        ""
    };
    match new_path {
        Some(to) => output.line(format_args!("{kind:9} {path}{slash} -> {to}{slash}")),
        None if event.kind == EventKind::Overflow => {
            output.line("overflow  events are lost; look at everything again")
        }
        None => output.line(format_args!("{kind:9} {path}{slash}")),
    }
}

/// Returns the kind as the protocol names it.
fn name(kind: &EventKind) -> &'static str {
    let kind = match kind {
        EventKind::Created => Kind::CREATED,
        EventKind::Removed => Kind::REMOVED,
        EventKind::Modified => Kind::MODIFIED,
        EventKind::Renamed { .. } => Kind::RENAMED,
        EventKind::BranchCreated => Kind::BRANCH_CREATED,
        EventKind::SnapshotCreated => Kind::SNAPSHOT_CREATED,
        EventKind::Opened => Kind::OPENED,
        EventKind::Read => Kind::READ,
        EventKind::Closed => Kind::CLOSED,
        // To a subscriber, a rescan of everything is an overflow.
        EventKind::Overflow | EventKind::Resumed => Kind::OVERFLOW,
        _ => return "overflow",
    };
    kind.name().unwrap_or("overflow")
}
