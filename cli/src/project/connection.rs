//! A connection to the daemon.

use std::cell::OnceCell;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentfs_client::{CallError, Client, ConnectError, Deadline};
use agentfs_proto::message::{
    Call, Hello, Project, ProjectInfo, ProjectPlace, Store, StoreAction, StoreReport, Welcome,
};

use crate::common::Common;
use crate::environment::BRANCH_VARIABLE;
use crate::output::failure::Failure;
use crate::platform;
use crate::project::{self, Daemon, Found, Identity, Others, store};
use agentfs_export::command::quoted;

/// How long the daemon may take for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a request waits for its turn before that is reported to the user.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// A connection to the daemon of a project, which the daemon knows as a session.
#[derive(Debug)]
pub(crate) struct DaemonConnection {
    pub(crate) client: Client,
    pub(crate) welcome: Welcome,
    /// Where the daemon listens.
    pub(crate) socket: PathBuf,
    /// The directory below the branches of the daemon.
    pub(crate) project: ProjectInfo,
    address: OnceCell<String>,
    /// Whether no notices for people are printed.
    pub(crate) is_quiet: bool,
}

impl DaemonConnection {
    /// Connects to the daemon of the project that the current directory is in, for a command that changes
    /// something. Another project is refused, unless the user named it.
    pub(crate) fn open(common: &Common, branch: &str) -> Result<Self, Failure> {
        Self::open_or(common, branch, |others| Err(refusal(common, others)))
    }

    /// Connects as [`open`](Self::open) does, for a command that only looks. In no project, the only
    /// daemon or the one at the default socket is taken, and a notice says which project that is.
    pub(crate) fn open_to_look(common: &Common, branch: &str) -> Result<Self, Failure> {
        Self::open_or(common, branch, |others| look_elsewhere(common, others))
    }

    fn open_or(
        common: &Common,
        branch: &str,
        elsewhere: impl FnOnce(Others) -> Result<Daemon, Failure>,
    ) -> Result<Self, Failure> {
        let found = match common.find()? {
            Found::Nothing(others) => start_kept(others)?,
            found @ (Found::Named(_) | Found::Over(_) | Found::Mounted(..)) => found,
        };
        Self::open_found(common, found, branch, elsewhere)
    }

    /// Connects to the daemon that runs, as [`open`](Self::open) does, and starts none: for a command that
    /// is about the daemon itself.
    pub(crate) fn open_running(common: &Common) -> Result<Self, Failure> {
        Self::open_found(common, common.find()?, "", |others| {
            Err(refusal(common, others))
        })
    }

    /// Connects to the daemon that runs, as [`open_to_look`](Self::open_to_look) does, and starts none.
    pub(crate) fn look_at_running(common: &Common) -> Result<Self, Failure> {
        let elsewhere = |others| look_elsewhere(common, others);
        Self::open_found(common, common.find()?, "", elsewhere)
    }

    fn open_found(
        common: &Common,
        found: Found,
        branch: &str,
        elsewhere: impl FnOnce(Others) -> Result<Daemon, Failure>,
    ) -> Result<Self, Failure> {
        let (socket, own_branch) = match found {
            // Inside of `agentfs run` the branch is that of the run.
            Found::Named(socket) if common.is_within_run() => {
                (socket, std::env::var(BRANCH_VARIABLE).ok())
            }
            Found::Named(socket) => (socket, None),
            Found::Over(daemon) => (daemon.socket, None),
            Found::Mounted(daemon, branch) => (daemon.socket, Some(branch)),
            Found::Nothing(others) => match others.default.clone() {
                // A daemon without a project is the same from everywhere.
                Some(daemon) if is_free(common, &daemon) => (daemon.socket, None),
                _ => (elsewhere(others)?.socket, None),
            },
        };
        let branch = match own_branch {
            Some(own) if branch.is_empty() => own,
            _ => branch.to_owned(),
        };
        let connection = Self::connect(&socket, branch)?;
        Ok(Self {
            is_quiet: common.json,
            ..connection
        })
    }

    /// Connects to the daemon at a socket.
    pub(crate) fn connect(socket: &Path, branch: String) -> Result<Self, Failure> {
        let hello = Hello {
            branch: branch.clone(),
            ..Hello::new("agentfs")
        };
        let deadline = Deadline::after(PATIENCE);
        // The refusal of a branch that does not exist names the command that makes it. Only the daemon
        // knows its project, which is part of that command, so it is asked first.
        let (client, welcome) = match Client::connect(socket, hello, deadline) {
            Err(ConnectError::Handshake(CallError::Refused(refused))) if !branch.is_empty() => {
                let connection = Self::connect(socket, String::new())?;
                let error = connection.addressed(CallError::Refused(refused));
                return Err(Failure::Call(String::new(), error));
            }
            other => other?,
        };
        let mut client = client;
        let project = client.call(Project { flags: 0 }, deadline)?;
        Ok(Self {
            client,
            welcome,
            socket: socket.to_owned(),
            project,
            address: OnceCell::new(),
            is_quiet: false,
        })
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<C: Call>(&mut self, request: C) -> Result<C::Answer, CallError> {
        self.call_within(request, Deadline::after(PATIENCE))
    }

    /// Sends a request as [`call`](Self::call) does, and waits for its answer without a deadline.
    pub(crate) fn call_long<C: Call>(&mut self, request: C) -> Result<C::Answer, CallError> {
        self.call_within(request, Deadline::NEVER)
    }

    /// Sends a request. The deadline does not count while the request waits for its turn, nor after that.
    fn call_within<C: Call>(
        &mut self,
        request: C,
        deadline: Deadline,
    ) -> Result<C::Answer, CallError> {
        let is_quiet = self.is_quiet;
        let notice = |ahead| say_waiting(is_quiet, ahead);
        let answer = self.client.call_in_turn(request, deadline, SILENCE, notice);
        answer.map_err(|error| self.addressed(error))
    }

    /// Completes the commands that a refusal names, so that they work from the current directory. The
    /// daemon does not know that directory and writes them as `...: agentfs WORDS`.
    pub(crate) fn addressed(&self, mut error: CallError) -> CallError {
        if let CallError::Refused(refused) = &mut error
            && refused.message.contains(": agentfs ")
        {
            let command = format!(": {} ", self.command());
            refused.message = refused.message.replace(": agentfs ", &command);
        }
        error
    }

    /// Asks the daemon again where the project is, which may have been moved since the connection began.
    pub(crate) fn look_again(&mut self) -> Result<(), CallError> {
        self.project = self.call(Project { flags: 0 })?;
        self.address = OnceCell::new();
        Ok(())
    }

    /// Returns where the daemon keeps its branches; `None` when they are in memory.
    pub(crate) fn store(&mut self) -> Result<Option<PathBuf>, CallError> {
        let path = self.store_report()?.path;
        Ok((!path.is_empty()).then(|| path.as_path().to_owned()))
    }

    /// Returns what the daemon says of the store.
    pub(crate) fn store_report(&mut self) -> Result<StoreReport, CallError> {
        let (action, most) = (StoreAction::Show, 0);
        self.call(Store { action, most })
    }

    /// Returns how `agentfs` is called from the current directory so that it reaches this daemon.
    pub(crate) fn command(&self) -> &str {
        let address = || project::address(&self.socket, &self.project);
        self.address.get_or_init(address)
    }

    /// Returns ` of /home/me/project`, or nothing without a directory below the branches.
    pub(crate) fn of_project(&self) -> String {
        if self.project.place == ProjectPlace::Nowhere {
            return String::new();
        }
        format!(" of {}", project::describe(&self.project))
    }

    /// Returns ` in branch run-1 of /home/me/project`.
    pub(crate) fn in_branch(&self, named: &str) -> String {
        let own = &self.welcome.branch_name;
        let branch = if named.is_empty() { own } else { named };
        format!(" in branch {branch}{}", self.of_project())
    }

    /// Adds the project to what is printed as JSON.
    pub(crate) fn with_project<T: serde::Serialize>(&self, value: T) -> WithProject<T> {
        let project = self.project_name();
        WithProject { value, project }
    }

    /// Returns the path of the project, if there is a directory below the branches.
    pub(crate) fn project_name(&self) -> Option<String> {
        let lower = &self.project.lower;
        (!lower.is_empty()).then(|| lower.to_string())
    }
}

/// An object and the project that it is about.
#[derive(Debug, serde::Serialize)]
pub(crate) struct WithProject<T> {
    #[serde(flatten)]
    value: T,
    project: Option<String>,
}

/// Reports how many requests go before one that waits for its turn.
pub(crate) fn say_waiting(is_quiet: bool, ahead: u64) {
    if !is_quiet {
        let line = format!("agentfs: waiting for other requests: {ahead} go first");
        // Nothing is left to report to when this fails.
        drop(writeln!(io::stderr(), "{line}"));
    }
}

/// Starts the daemon of the nearest directory upwards that has branches in a store, if there is one.
fn start_kept(others: Others) -> Result<Found, Failure> {
    let Some(project) = others.kept() else {
        return Ok(Found::Nothing(others));
    };
    let identity = Identity::of(&project).map_err(|error| Failure::directory(&project, &error))?;
    let socket = project::socket_for(&project, identity);
    platform::start_daemon(&socket, &project)?;
    let daemon = Daemon::ask(&socket)?;
    Ok(daemon.map_or(Found::Nothing(others), Found::Over))
}

/// Returns whether a daemon has no project and the user named none.
fn is_free(common: &Common, daemon: &Daemon) -> bool {
    common.project.is_none() && daemon.project.place == ProjectPlace::Nowhere
}

/// Returns the text for a directory that is in no project of a daemon.
fn nothing_over(start: &Path) -> String {
    if start.as_os_str().is_empty() {
        "no AgentFS daemon is found from the current directory, which is gone".to_owned()
    } else {
        format!(
            "no AgentFS daemon is over {} or a directory above it",
            start.display()
        )
    }
}

/// Returns why a command is not carried out on another project, and the commands that would do it.
fn refusal(common: &Common, others: Others) -> Failure {
    let mut nothing = nothing_over(&others.start);
    if let Some(kept) = others.kept().and_then(|it| store::kept_for(&it)) {
        let kept = kept.display();
        nothing.push_str(&format!(
            "; its branches are in the store {kept}, and `agentfs branch list` shows them"
        ));
    }
    if common.project.is_some() || others.all().next().is_none() {
        let start = if others.start.as_os_str().is_empty() {
            "DIR".to_owned()
        } else {
            quoted(others.start.as_os_str())
        };
        return Failure::Other(format!(
            "{nothing}; `agentfs run` starts one when it needs one; by hand: agentfs daemon --lower \
             {start}"
        ));
    }
    let words: Vec<String> = std::env::args_os().skip(1).map(|it| quoted(&it)).collect();
    let words = words.join(" ");
    let mut text = format!("{nothing}, so nothing is done");
    for daemon in others.all() {
        let address = project::address(&daemon.socket, &daemon.project);
        let project = project::describe(&daemon.project);
        text.push_str(&format!("\n  to do it in {project}: {address} {words}"));
    }
    Failure::Other(text)
}

/// Chooses the daemon for a command that only looks, from a directory that is in no project, and reports
/// which project it has.
fn look_elsewhere(common: &Common, others: Others) -> Result<Daemon, Failure> {
    let chosen = match (&others.default, &others.more[..]) {
        _ if common.project.is_some() => None,
        (Some(default), _) => Some(default),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(daemon) = chosen.cloned() else {
        return Err(refusal(common, others));
    };
    let (nothing, about) = (
        nothing_over(&others.start),
        project::describe(&daemon.project),
    );
    let text = if common.json {
        let lower = daemon.project.lower.to_string();
        serde_json::json!({ "project": lower, "note": nothing }).to_string()
    } else {
        format!("agentfs: {nothing}; this is about {about}")
    };
    // The answer follows even if this notice cannot be written.
    drop(writeln!(io::stderr(), "{text}"));
    Ok(daemon)
}
