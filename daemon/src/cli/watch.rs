//! `agentfs watch`: a native subscriber.

use std::os::unix::net::UnixStream;

use agentfs_proto::bytes::Bytes;
use agentfs_proto::client::{Deadline, OpenQueue};
use agentfs_proto::message::{QueueKind, QueueOpen, WatchRegisterTree};
use agentfs_proto::record::{EventRef, Kind, flags};
use agentfs_ring::doorbell::{BellKind, Ringer, Waiter};
use agentfs_ring::{ArmOutcome, Bell, Claim, Consumer, OwnerId};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::fs::path_argument;
use super::session::{PATIENCE, Session};
use super::{Common, Failure, Output};

/// Print changes at and below a path as they happen
///
/// The events come from shared memory; the daemon is asked once, at the start.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs watch
  agentfs watch /src --branch attempt-1
  agentfs watch /src --json | jq .path
  agentfs watch /src --count 1 && make")]
pub(crate) struct WatchArgs {
    /// The path in the branch; it need not exist
    #[arg(value_parser = path_argument, default_value = "/")]
    path: Bytes,
    /// The branch, instead of main
    #[arg(long, value_name = "NAME", default_value = "")]
    branch: String,
    /// Opening, reading and closing too
    #[arg(long)]
    activity: bool,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Bytes of the ring, a power of two; 0 for the default
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    ring: u32,
}

/// The refill doorbell, as the daemon makes it on this system.
const REFILL: BellKind = if cfg!(target_os = "linux") {
    BellKind::EventFd
} else {
    BellKind::Pipe
};

pub(crate) fn run(common: &Common, args: WatchArgs, output: &mut Output) -> Result<(), Failure> {
    let mut session = Session::open_to_look(common, &args.branch)?;
    let path = args.path;
    let open = QueueOpen {
        kind: QueueKind::Native,
        capacity: args.ring,
    };
    let queue = session.client.open_queue(open, Deadline::after(PATIENCE))?;
    let watch = WatchRegisterTree {
        queue: queue.opened.queue,
        watch: 1,
        path: path.clone(),
        activity: args.activity,
    };
    session
        .call(watch)
        .map_err(|error| Failure::Call(path.to_string(), error))?;
    let mut subscriber = Subscriber::new(queue, session)?;
    let session = &subscriber.session;
    let branch = &session.welcome.branch_name;
    if output.is_json() {
        let ready = serde_json::json!({ "watching": path, "branch": branch });
        output.json(&session.with_project(ready))?;
    } else {
        let of_project = session.of_project();
        output.line(format_args!(
            "watching {path} of branch {branch}{of_project}, until Ctrl-C"
        ))?;
    }
    output.flush().map_err(Failure::Output)?;
    subscriber.print(args.count, output)
}

/// The reading end of the queue, and what ends it.
struct Subscriber {
    consumer: Consumer,
    refill: Ringer,
    doorbell: Waiter,
    session: Session,
    /// Readable after a signal.
    signal: UnixStream,
}

/// Why the subscriber woke.
#[derive(PartialEq, Eq)]
enum Woken {
    Doorbell,
    Signal,
    DaemonGone,
}

impl Subscriber {
    fn new(queue: OpenQueue, session: Session) -> Result<Self, Failure> {
        let OpenQueue {
            opened: _,
            ring,
            refill,
            doorbell,
        } = queue;
        let consumer = Consumer::open(ring).map_err(|error| Failure::Other(error.to_string()))?;
        let (signal, write) = UnixStream::pair().map_err(Failure::Input)?;
        for number in [SIGINT, SIGTERM] {
            let write = write.try_clone().map_err(Failure::Input)?;
            signal_hook::low_level::pipe::register(number, write).map_err(Failure::Input)?;
        }
        Ok(Self {
            consumer,
            refill: Ringer::from_fd(refill, REFILL),
            doorbell: Waiter::from_fd(doorbell, BellKind::Pipe),
            session,
            signal,
        })
    }

    /// Prints events until a signal, the end of the daemon, or `limit`.
    fn print(&mut self, limit: Option<u64>, output: &mut Output) -> Result<(), Failure> {
        let mut printed = 0;
        loop {
            let may_sleep = {
                let mut claim = self
                    .consumer
                    .claim(OwnerId::this_process(), |_| true)
                    .ok_or_else(|| Failure::Other("another process reads this ring".to_owned()))?;
                printed += print_unread(&mut claim, limit.map(|limit| limit - printed), output)?;
                if claim.release() == Bell::Ring {
                    self.refill
                        .ring()
                        .map_err(|error| Failure::Other(error.to_string()))?;
                }
                claim.arm().map_err(damaged)? == ArmOutcome::MaySleep
            };
            if limit.is_some_and(|limit| printed >= limit) {
                return Ok(());
            }
            if !may_sleep {
                continue;
            }
            output.flush().map_err(Failure::Output)?;
            match self.wait()? {
                Woken::Doorbell => {}
                Woken::Signal => return Ok(()),
                Woken::DaemonGone => {
                    return Err(Failure::Other("the daemon ended".to_owned()));
                }
            }
        }
    }

    fn wait(&self) -> Result<Woken, Failure> {
        let failed = |error: Errno| Failure::Other(format!("waiting failed: {error}"));
        let mut fds = [
            PollFd::new(&self.doorbell, PollFlags::IN),
            PollFd::new(&self.signal, PollFlags::IN),
            PollFd::new(&self.session.client, PollFlags::IN),
        ];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let [doorbell, signal, daemon] = fds.map(|fd| fd.revents());
        if !signal.is_empty() {
            return Ok(Woken::Signal);
        }
        if doorbell.contains(PollFlags::IN) {
            // Before popping, never after: a ring in between would be lost.
            self.doorbell
                .clear()
                .map_err(|error| Failure::Other(error.to_string()))?;
            return Ok(Woken::Doorbell);
        }
        // Nothing was asked, so only the end can be readable. What is in the ring was printed.
        if daemon.is_empty() {
            Ok(Woken::Doorbell)
        } else {
            Ok(Woken::DaemonGone)
        }
    }
}

fn damaged(error: agentfs_ring::Corrupt) -> Failure {
    Failure::Other(format!(
        "the ring is damaged: {error}; start the watch again"
    ))
}

/// Prints what is in the ring, at most `limit` events. Returns how many.
fn print_unread(
    claim: &mut Claim<'_>,
    limit: Option<u64>,
    output: &mut Output,
) -> Result<u64, Failure> {
    let mut printed = 0;
    while limit.is_none_or(|limit| printed < limit) {
        let Some(record) = claim.next().map_err(damaged)? else {
            break;
        };
        let event = EventRef::parse(&record)
            .map_err(|error| Failure::Other(format!("a damaged record: {error}")))?;
        if event.head().kind == Kind::PADDING {
            continue;
        }
        print_event(&event, output)?;
        printed += 1;
    }
    Ok(printed)
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

fn print_event(event: &EventRef<'_>, output: &mut Output) -> Result<(), Failure> {
    let head = event.head();
    let (path, aux) = (event.path().into(), Bytes::from(event.aux()));
    let has = |flag| head.flags & flag != 0;
    if output.is_json() {
        return output.json(&EventJson {
            kind: head.kind.to_string(),
            path,
            new_path: (head.kind == Kind::RENAMED).then_some(aux),
            directory: has(flags::DIRECTORY),
            attributes: has(flags::ATTRIBUTES),
            healed: has(flags::HEALED),
            seq: head.seqno,
            time_ns: head.ts_nanos,
            node: head.node,
            pid: head.data,
        });
    }
    let slash = if has(flags::DIRECTORY) && path.last() != Some(&b'/') {
        "/"
    } else {
        ""
    };
    match head.kind {
        Kind::RENAMED => output.line(format_args!(
            "{:9} {path}{slash} -> {aux}{slash}",
            "renamed"
        )),
        Kind::OVERFLOW => output.line("overflow  events are lost; look at everything again"),
        kind => output.line(format_args!("{:9} {path}{slash}", kind.to_string())),
    }
}
