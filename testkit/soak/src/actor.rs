//! The process that can be killed: a daemon with a mount, which also changes files at random and
//! records what was committed.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentfs_client::{Client, Deadline};
use agentfs_core::event::{Change, Envelope, EventKind, EventSink};
use agentfs_core::{Branch, Caller, FsCore, OpenFlags, RenameFlags};
use agentfs_daemon::{Config, Daemon};
use agentfs_proto::message::{Hello, Mount};
use agentfs_testkit::random::Random;

use crate::Failure;
use crate::truth::{ATTRIBUTES, DIRECTORY, GO, LoggedChange};

/// What the parent asks for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    mount: PathBuf,
    /// Where commits are written down.
    #[arg(long)]
    log: PathBuf,
    #[arg(long)]
    seed: u64,
}

/// The directories that listeners watch.
pub(crate) const DIRECTORIES: [&str; 4] = ["d0", "d1", "d2", "d3"];
/// The name that is created when everything is over.
pub(crate) const END: &str = "end";
const FILES: usize = 16;

/// A sink that records what is committed, at once: what a killed process wrote stays.
struct Log(File);

impl EventSink for Log {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        if let Some(change) = change(envelope) {
            // Without the log the run fails in any case.
            let _written = (&self.0).write_all(change.line().as_bytes());
        }
    }
}

fn change(envelope: &Envelope) -> Option<LoggedChange> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (kind, path, to) = match envelope.kind()? {
        EventKind::Created { path } => ("created", text(path), String::new()),
        EventKind::Removed { path } => ("removed", text(path), String::new()),
        EventKind::Modified { path } => ("modified", text(path), String::new()),
        EventKind::Renamed { from, to } => ("renamed", text(from), text(to)),
        EventKind::SnapshotCreated { name, .. } => ("snapshot_created", name, String::new()),
        EventKind::BranchCreated { name, .. } => ("branch_created", name, String::new()),
    };
    let is_dir =
        if let Change::Created { node, .. } | Change::Removed { node, .. } = &envelope.change {
            node.kind.is_dir()
        } else {
            false
        };
    let is_attributes = matches!(envelope.change, Change::Attributes { .. });
    let marks = [(is_dir, DIRECTORY), (is_attributes, ATTRIBUTES)];
    Some(LoggedChange {
        seq: envelope.seq.0,
        kind: kind.to_owned(),
        marks: marks.iter().filter(|it| it.0).map(|it| it.1).collect(),
        path,
        to,
    })
}

struct Actor {
    branch: Branch,
    core: FsCore,
    caller: Caller,
    random: Random,
    snapshots: u64,
    changes: u64,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let daemon = Daemon::start(Config::new(args.socket.clone()))?;
    let core = daemon.core().clone();
    let branch = core.branch(FsCore::MAIN)?;
    let caller = Caller::root();
    for directory in DIRECTORIES {
        branch.mkdir(&caller, format!("/{directory}"), 0o755)?;
    }
    let log = File::options().create(true).append(true).open(&args.log)?;
    core.subscribe_events(Arc::new(Log(log.try_clone()?)))?;
    let deadline = Deadline::after(Duration::from_secs(30));
    let (mut client, _) = Client::connect(daemon.socket(), Hello::new("soak"), deadline)?;
    let request = Mount {
        branch: String::new(),
        path: args.mount.as_path().into(),
    };
    client.call(request, deadline)?;
    let mut commands = std::io::stdin().lines();
    let mut answer = |text: &str| -> Result<bool, Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(commands.next().is_some())
    };
    if !answer("ready")? {
        return Ok(());
    }
    writeln!(&log, "{GO}")?;
    let mut actor = Actor {
        branch,
        core,
        caller,
        random: Random::new(args.seed),
        snapshots: 0,
        changes: 0,
    };
    let is_over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let acting = scope.spawn(|| actor.act(&is_over));
        let go_on = answer("going");
        is_over.store(true, Ordering::Relaxed);
        let acted = acting
            .join()
            .unwrap_or_else(|_| Err("the actor panicked".into()));
        go_on.and(acted)
    });
    done?;
    actor.make(&format!("/{}/{END}", DIRECTORIES[0]))?;
    // The daemon goes on until every listener has heard the end.
    answer(&actor.changes.to_string())?;
    Ok(())
}

impl Actor {
    /// Changes files until the run is over: mostly some at a time, now and then very many.
    fn act(&mut self, is_over: &AtomicBool) -> Result<(), Failure> {
        while !is_over.load(Ordering::Relaxed) {
            let count = match self.random.below(300) {
                0 => 150_000,
                1..15 => 5000,
                _ => self.random.below(300),
            };
            for _ in 0..count {
                self.change();
                if is_over.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_micros(self.random.range(0..10_000)));
        }
        Ok(())
    }

    fn file(&mut self) -> String {
        let directory = self.random.below(4);
        format!("/d{directory}/f{}", self.random.below(FILES))
    }

    /// Makes one operation. An operation that is not possible, as removing what is not there, fails
    /// and changes nothing.
    fn change(&mut self) {
        self.changes += 1;
        let path = self.file();
        let caller = self.caller.clone();
        let branch = self.branch.clone();
        let _outcome = match self.random.below(1000) {
            0..150 => self.make(&path),
            150..250 => branch.unlink(&caller, &path),
            250..350 => branch.rename(&caller, &path, self.file(), RenameFlags::REPLACE),
            350..400 => {
                let mode = 0o600 + u32::from(self.random.below(2) == 0);
                branch.chmod(&caller, &path, mode)
            }
            400..430 => {
                let directory = format!("/d{}/sub", self.random.below(4));
                branch.mkdir(&caller, directory, 0o755).map(|_| ())
            }
            430..460 => branch.rmdir(&caller, format!("/d{}/sub", self.random.below(4))),
            460 if self.snapshots < 100 => {
                self.snapshots += 1;
                let name = format!("s{}", self.snapshots);
                let made = self.core.snapshot_create(&caller, FsCore::MAIN, &name);
                made.map(|_| ())
            }
            _ => self.write(&path),
        };
    }

    fn make(&self, path: &str) -> agentfs_core::Result<()> {
        let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
        let handle = self.branch.open(&self.caller, path, flags, 0o644)?;
        self.branch.close(&self.caller, handle)
    }

    /// Writes content that was not there before.
    fn write(&self, path: &str) -> agentfs_core::Result<()> {
        let handle = self
            .branch
            .open(&self.caller, path, OpenFlags::READ_WRITE, 0)?;
        let content = self.changes.to_le_bytes();
        let written = self.branch.write_at(&self.caller, handle, 0, &content);
        self.branch.close(&self.caller, handle)?;
        written.map(|_| ())
    }
}
