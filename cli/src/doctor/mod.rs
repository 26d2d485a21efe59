//! `agentfs doctor`: checks what this machine allows, and what to do about the rest.

mod checks;
mod coverage;
mod program;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod system;

use agentfs_client::{Client, ConnectError, Deadline};
use agentfs_proto::message::{Hello, Project, ProjectPlace};
use clap::Args;
use serde::Serialize;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, Table};
use crate::project::connection::DaemonConnection;
use crate::{mount, platform, project};

/// Show what this machine allows and what to do about the rest
///
/// Use it when a command fails, or before relying on AgentFS on a new machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs doctor
  agentfs doctor tsc                      and what this program will hear
  agentfs doctor --json | jq '.[] | select(.state == \"missing\")'")]
pub(crate) struct DoctorArgs {
    /// Also report whether this program will be notified of changes, and how
    program: Option<OsString>,
}

/// How well something works here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It works.
    Ok,
    /// It works with limits.
    Limited,
    /// It does not work.
    Missing,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it, unless all is well.
    advice: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn with(
        what: &'static str,
        state: State,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            what,
            state,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }
}

pub(crate) fn run(common: &Common, args: DoctorArgs, output: &mut Output) -> Result<(), Failure> {
    let mut findings = checks::all();
    let path = common
        .socket_path()
        .unwrap_or_else(|_| project::default_socket());
    findings.push(socket(&path));
    findings.push(daemon(&path));
    findings.extend(coverage::look_at(common));
    findings.extend(watchers(&path));
    if let Some(program) = &args.program {
        findings.extend(program::look_at(program));
    }
    if output.is_json() {
        return output.json(&findings);
    }
    let mut table = Table::default();
    for finding in &findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Missing => "MISSING",
        };
        table.row([
            state.to_owned(),
            finding.what.to_owned(),
            finding.found.clone(),
        ]);
    }
    output.line(table)?;
    for finding in findings {
        if let Some(advice) = finding.advice {
            output.line(format_args!("\n{}: {advice}", finding.what))?;
        }
    }
    Ok(())
}

/// Returns what stands in the way of mounting a branch, each with what to do about it.
pub(crate) fn obstacles_to_mounts() -> Vec<String> {
    let findings = [checks::fuse(), system::user_namespaces()];
    let texts = findings.into_iter().filter_map(|it| {
        let advice = it.advice?;
        Some(format!("{}: {}; {advice}", it.what, it.found))
    });
    texts.collect()
}

fn socket(path: &Path) -> Finding {
    let what = "control socket";
    let found = path.display().to_string();
    match agentfs_proto::socket::check(path) {
        Ok(()) => Finding::ok(what, found),
        Err(agentfs_proto::socket::SocketPathError::Io(_, error))
            if error.kind() == std::io::ErrorKind::NotFound =>
        {
            Finding::ok(what, format!("{found} (to be made)"))
        }
        Err(error) => Finding::with(what, State::Missing, found, error.to_string()),
    }
}

/// Looks for programs that watch a mount without the preloaded library.
fn watchers(path: &Path) -> Option<Finding> {
    let what = "watchers without the shim";
    let mut connection = DaemonConnection::connect(path, String::new()).ok()?;
    let mounts = mount::list(&mut connection).ok()?;
    let all = platform::listeners_on(&mounts);
    if all.is_empty() {
        return (!mounts.is_empty()).then(|| Finding::ok(what, "none on any mount"));
    }
    let names = all.iter().map(|it| format!("{} ({})", it.program, it.pid));
    Some(Finding::with(
        what,
        State::Limited,
        names.collect::<Vec<_>>().join(", "),
        "changes from outside are replayed on the mount for them (`agentfs daemon --echo`), which takes \
         some tenths of a millisecond for each. Dynamically linked programs are notified sooner when \
         they are started with: agentfs exec -- COMMAND. For programs that are static, setuid or in Go, \
         and users of fanotify, there is no other way",
    ))
}

fn daemon(path: &Path) -> Finding {
    let what = "daemon";
    let deadline = Deadline::after(Duration::from_secs(2));
    let asked = Client::connect(path, Hello::new("agentfs doctor"), deadline);
    let asked = asked.and_then(|(mut client, welcome)| {
        let project = client.call(Project { flags: 0 }, deadline);
        Ok((
            welcome.daemon_pid,
            project.map_err(ConnectError::Handshake)?,
        ))
    });
    match asked {
        Ok((pid, project)) if is_there(project.place) => {
            let about = project::describe(&project);
            Finding::ok(what, format!("running, process {pid}, over {about}"))
        }
        Ok((pid, project)) => {
            let about = project::describe(&project);
            let found = format!("running, process {pid}, over {about}");
            let address = project::address(path, &project);
            let advice = format!(
                "its path shows another directory now, which has a daemon of its own as soon as one is \
                 needed. What branches of the old one have is listed by: {address} branch list; then it \
                 is ended by: {address} shutdown"
            );
            Finding::with(what, State::Limited, found, advice)
        }
        Err(ConnectError::NoDaemon(_)) => Finding::with(
            what,
            State::Limited,
            "not running",
            "`agentfs run` starts one when it needs one; by hand: agentfs daemon --lower DIR",
        ),
        Err(error) => Finding::with(what, State::Missing, "does not answer", error.to_string()),
    }
}

/// Returns whether the daemon still has the directory that is at its path, or no directory at all.
fn is_there(place: ProjectPlace) -> bool {
    match place {
        ProjectPlace::InPlace | ProjectPlace::Nowhere => true,
        ProjectPlace::Elsewhere | ProjectPlace::Deleted => false,
    }
}
