//! `agentfs list`: every project of the user that has branches, with a daemon or without one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::{FsConfig, FsCore, Overlay};
use agentfs_proto::message::{BranchInfo, ProjectPlace};
use clap::Args;
use serde::Serialize;

use crate::branch;
use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, Table, age_text, size_text};
use crate::project::connection::DaemonConnection;
use crate::project::{self, Daemon, store};

/// List all projects that have branches, with their runs
///
/// Projects whose daemon runs are asked; the stores of the others are read. A store in a place of its own
/// (--store) is listed while its daemon runs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs list
  agentfs list --json | jq -r '.[] | select(.daemon == null) | .project'")]
pub(crate) struct ListArgs {}

/// A project as it is listed.
#[derive(Debug, Default, Serialize)]
struct Listed {
    /// The directory below the branches; `None` for an empty tree, and where it is not known any more.
    project: Option<String>,
    /// What became of that directory, if it is not in its place.
    place: Option<String>,
    store: Option<String>,
    /// Bytes that the store takes on its disk.
    size: Option<u64>,
    /// The process of the daemon.
    daemon: Option<u32>,
    socket: Option<String>,
    branches: Vec<Branch>,
    /// Why the branches are not listed.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Branch {
    name: String,
    frozen: Option<bool>,
    /// Seconds since it was made.
    age: Option<u64>,
    /// The process of the run that has it.
    run: Option<u32>,
}

pub(crate) fn run(common: &Common, _: ListArgs, output: &mut Output) -> Result<(), Failure> {
    let mut daemons = project::others();
    let named = common
        .named_socket()
        .into_iter()
        .chain([project::default_socket()]);
    for socket in named {
        daemons.extend(Daemon::ask(&socket).ok().flatten());
    }
    let mut seen = HashSet::new();
    daemons.retain(|it| seen.insert(it.socket.clone()));
    let mut all: Vec<Listed> = daemons.iter().map(of_daemon).collect();
    let mut stores: HashSet<PathBuf> = all
        .iter()
        .filter_map(|it| it.store.as_ref().map(PathBuf::from))
        .collect();
    for kept in store::all_kept() {
        if stores.insert(kept.clone()) {
            all.push(of_store(&kept));
        }
    }
    all.sort_by(|a, b| (&a.project, &a.store).cmp(&(&b.project, &b.store)));
    if output.is_json() {
        return output.json(&all);
    }
    if all.is_empty() {
        return output.line("no project has branches; `agentfs run` makes the first");
    }
    for (index, listed) in all.iter().enumerate() {
        if index > 0 {
            output.line("")?;
        }
        print(listed, output)?;
    }
    Ok(())
}

/// Asks a daemon for its branches.
fn of_daemon(daemon: &Daemon) -> Listed {
    let mut listed = Listed {
        socket: Some(daemon.socket.display().to_string()),
        ..Listed::default()
    };
    let info = &daemon.project;
    if info.place != ProjectPlace::Nowhere {
        listed.project = Some(info.lower.to_string());
    }
    if !matches!(info.place, ProjectPlace::Nowhere | ProjectPlace::InPlace) {
        listed.place = Some(project::describe(info));
    }
    let asked = DaemonConnection::connect(&daemon.socket, String::new()).and_then(|mut it| {
        listed.daemon = Some(it.welcome.daemon_pid);
        let kept = it.store()?;
        listed.size = kept.as_deref().map(store::size_of);
        listed.store = kept.map(|it| it.display().to_string());
        branch::all(&mut it)
    });
    match asked {
        Ok(branches) => listed.branches = branches.into_iter().map(Branch::from).collect(),
        Err(failure) => listed.error = Some(failure.to_string()),
    }
    listed
}

/// Reads the store of a project that has no daemon.
fn of_store(path: &Path) -> Listed {
    let lower = store::project_of(path);
    let mut listed = Listed {
        project: store::project_name(path),
        store: Some(path.display().to_string()),
        size: Some(store::size_of(path)),
        ..Listed::default()
    };
    if lower.is_none() {
        let gone = |name| format!("{name}, which is not there any more");
        listed.place = listed.project.clone().map(gone);
    }
    let config = FsConfig {
        overlay: lower.map(|lower| Overlay { lower }),
        ..FsConfig::default()
    };
    match FsCore::check_store(path, config) {
        Ok(found) => {
            listed.error = found.defects.into_iter().next();
            let unknown = |name| Branch {
                name,
                frozen: None,
                age: None,
                run: None,
            };
            listed.branches = found.branches.into_iter().map(unknown).collect();
        }
        Err(error) => listed.error = Some(error.to_string()),
    }
    listed
}

impl From<BranchInfo> for Branch {
    fn from(info: BranchInfo) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |it| it.as_secs());
        Self {
            name: info.name,
            frozen: Some(info.frozen),
            age: Some(now.saturating_sub(info.created_ns / 1_000_000_000)),
            run: Some(info.run).filter(|it| *it != 0),
        }
    }
}

fn print(listed: &Listed, output: &mut Output) -> Result<(), Failure> {
    let name = match (&listed.place, &listed.project) {
        (Some(place), _) => place,
        (None, Some(project)) => project,
        (None, None) if listed.daemon.is_some() => "an empty tree",
        (None, None) => "a project that is not known any more",
    };
    let daemon = match listed.daemon {
        Some(pid) => format!("daemon {pid}"),
        None => "no daemon".to_owned(),
    };
    let size = listed.size.map_or("in memory".to_owned(), size_text);
    output.line(format_args!("{name}: {daemon}, {size}"))?;
    if let Some(store) = listed.store.as_ref().filter(|_| listed.daemon.is_none()) {
        output.line(format_args!("  in {store}"))?;
    }
    if let Some(error) = &listed.error {
        output.line(format_args!("  {error}"))?;
    }
    let mut table = Table::new(&["  BRANCH", "AGE", "SHOWS", "RUN"]);
    for branch in &listed.branches {
        table.row([
            format!("  {}", branch.name),
            branch.age.map_or_else(String::new, age_text),
            match branch.frozen {
                Some(true) => "frozen".to_owned(),
                Some(false) => "live".to_owned(),
                None => String::new(),
            },
            branch
                .run
                .map_or_else(String::new, |it| format!("process {it}")),
        ]);
    }
    match listed.branches.is_empty() {
        true => Ok(()),
        false => output.line(table),
    }
}
