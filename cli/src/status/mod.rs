//! `agentfs status`: what the daemon serves at the moment.

pub(crate) mod coverage;
pub(crate) mod listeners;

use agentfs_client::CallError;
use agentfs_proto::message::{
    MountInfo, ProjectInfo, SessionStatus, Status, StatusReport, WatchInfo, WatchList,
};
use clap::Args;

use self::coverage::Coverage;
use self::listeners::Listener;
use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, Table};
use crate::project::connection::DaemonConnection;
use crate::project::freezing;
use crate::project::settings::Settings;
use crate::{mount, platform, project};

/// Show sessions, queues, mounts and counters of the daemon
///
/// Use it to see which programs are connected, which hear of changes by echo only, and whether a reader is
/// too slow.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs status
  agentfs status --watches
  agentfs status --json | jq .counters")]
pub(crate) struct StatusArgs {
    /// Also list what every queue watches, by its current path
    #[arg(long)]
    watches: bool,
}

pub(crate) fn run(common: &Common, args: StatusArgs, output: &mut Output) -> Result<(), Failure> {
    let mut connection = DaemonConnection::look_at_running(common)?;
    let report = fetch(&mut connection)?;
    let kept = connection.store_report()?;
    let store = (!kept.path.is_empty()).then(|| kept.path.as_path().to_owned());
    let store_warning = (!kept.warning.is_empty()).then_some(kept.warning);
    let mounts = mount::list(&mut connection)?;
    let listeners = platform::listeners_on(&mounts);
    let settings = freezing::settings(&connection);
    let watches = if args.watches {
        Some(watches(&mut connection, &report)?)
    } else {
        None
    };
    if output.is_json() {
        return output.json(&connection.with_project(WithMounts {
            report: &report,
            directory: &connection.project,
            store: store.as_ref().map(|it| it.display().to_string()),
            store_warning: store_warning.as_deref(),
            mounts: &mounts,
            listeners_without_shim: &listeners,
            not_watched: Coverage(&report).line(),
            settings: settings.as_ref().ok(),
            watches: watches.as_deref(),
        }));
    }
    output.line(text(&report, &connection.project))?;
    match &store {
        Some(store) => output.line(format_args!("branches are kept in {}", store.display()))?,
        None => output.line("branches are in memory and end with the daemon")?,
    }
    if let Some(warning) = store_warning {
        output.line(format_args!("warning: {warning}"))?;
    }
    match settings.map(|it| it.line()) {
        Ok(Some(line)) => output.line(line)?,
        Ok(None) => {}
        Err(failure) => output.line(format_args!("the settings cannot be used: {failure}"))?,
    }
    if !mounts.is_empty() {
        output.line(format_args!("\n{}", mount::table(&mounts)))?;
    }
    if !listeners.is_empty() {
        output.line(format_args!("\n{}", listeners::table(&listeners)))?;
    }
    if let Some(watches) = watches.filter(|it| !it.is_empty()) {
        output.line(format_args!("\n{}", watch_table(&watches)))?;
    }
    Ok(())
}

/// The report and the mount table as one object.
#[derive(serde::Serialize)]
struct WithMounts<'a> {
    #[serde(flatten)]
    report: &'a StatusReport,
    /// The directory below the branches, and whether it still is where it was.
    directory: &'a ProjectInfo,
    /// Where the branches are kept; nothing when they are in memory.
    store: Option<String>,
    /// Says that the store is nearly full, and what can be done.
    store_warning: Option<&'a str>,
    mounts: &'a [MountInfo],
    /// The programs that watch a mount and are notified by echo.
    listeners_without_shim: &'a [Listener],
    /// Which part of the lower directory is not watched, and why.
    not_watched: Option<String>,
    /// What the project says about itself; nothing when that cannot be read.
    settings: Option<&'a Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watches: Option<&'a [Watched]>,
}

/// A watch, and the queue that it belongs to.
#[derive(serde::Serialize)]
struct Watched {
    session: u64,
    queue: u32,
    #[serde(flatten)]
    watch: WatchInfo,
}

/// Returns what all queues watch.
fn watches(
    connection: &mut DaemonConnection,
    report: &StatusReport,
) -> Result<Vec<Watched>, Failure> {
    let mut watches = Vec::new();
    for of in &report.sessions {
        for queue in &of.queues {
            let (number, queue) = (of.session, queue.queue);
            let found = watches_of(connection, number, queue)?;
            watches.extend(found.into_iter().map(|watch| Watched {
                session: number,
                queue,
                watch,
            }));
        }
    }
    Ok(watches)
}

/// Returns all pages of what a queue watches; nothing if the queue has ended meanwhile.
fn watches_of(
    connection: &mut DaemonConnection,
    of: u64,
    queue: u32,
) -> Result<Vec<WatchInfo>, Failure> {
    let (mut watches, mut after) = (Vec::new(), 0);
    loop {
        let request = WatchList {
            session: of,
            queue,
            after,
        };
        let page = match connection.call(request) {
            Err(CallError::Refused(_)) => return Ok(watches),
            page => page?,
        };
        if page.watches.is_empty() {
            return Ok(watches);
        }
        after = page.next;
        watches.extend(page.watches);
    }
}

fn watch_table(watches: &[Watched]) -> Table {
    let mut table = Table::new(&["WATCH", "FOR", "PATH"]);
    for it in watches {
        let paths: Vec<String> = it.watch.paths.iter().map(ToString::to_string).collect();
        table.row([
            format!("{}.{}.{}", it.session, it.queue, it.watch.watch),
            if it.watch.node == 0 {
                "all below".to_owned()
            } else {
                format!("{:#x}", it.watch.interest)
            },
            if paths.is_empty() {
                "(no name)".to_owned()
            } else {
                paths.join(" ")
            },
        ]);
    }
    table
}

/// Returns all pages of the status as one report.
pub(crate) fn fetch(connection: &mut DaemonConnection) -> Result<StatusReport, Failure> {
    let mut report = connection.call(Status { after: 0 })?;
    while report.more {
        let after = report.sessions.last().map_or(0, |session| session.session);
        let page = connection.call(Status { after })?;
        report.sessions.extend(page.sessions);
        report.more = page.more;
    }
    Ok(report)
}

pub(crate) fn text(report: &StatusReport, project: &ProjectInfo) -> String {
    let StatusReport {
        pid,
        version,
        uptime_s,
        ..
    } = report;
    let (hours, minutes, seconds) = (uptime_s / 3600, uptime_s / 60 % 60, uptime_s % 60);
    let lower = project::describe(project);
    let mut sessions = Table::new(&["SESSION", "PID", "PROGRAM", "BRANCH", "REQUESTS", "FILES"]);
    let mut queues = Table::new(&["QUEUE", "KIND", "WATCHES", "RING", "UNREAD", "SPILLED", ""]);
    for it in &report.sessions {
        let SessionStatus {
            session,
            pid,
            program,
            branch,
            requests,
            handles,
            ..
        } = it;
        let bound = if it.bound { " (bound)" } else { "" };
        let branch = format!("{branch}{bound}");
        let (requests, handles) = (requests.to_string(), handles.to_string());
        let program = program.clone();
        sessions.row([
            session.to_string(),
            pid.to_string(),
            program,
            branch,
            requests,
            handles,
        ]);
        for queue in &it.queues {
            queues.row([
                format!("{session}.{}", queue.queue),
                format!("{:?}", queue.kind),
                queue.watches.to_string(),
                queue.ring_capacity.to_string(),
                queue.ring_unread.to_string(),
                queue.spilled.to_string(),
                if queue.healing { "healing" } else { "" }.to_owned(),
            ]);
        }
    }
    let mut counters = Table::default();
    for counter in &report.counters {
        counters.row([counter.name.clone(), counter.value.to_string()]);
    }
    let has_queues = report
        .sessions
        .iter()
        .any(|session| !session.queues.is_empty());
    let queues = if has_queues {
        format!("{queues}\n\n")
    } else {
        String::new()
    };
    let gap = Coverage(report).line();
    let gap = gap.map_or_else(String::new, |gap| format!("{gap}\n"));
    format!(
        "agentfs {version}, process {pid}, up {hours}:{minutes:02}:{seconds:02}, over {lower}\n{gap}\n\
         {sessions}\n\n{queues}{counters}"
    )
}
