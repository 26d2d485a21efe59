//! A session with the daemon.

use std::io::{self, Write as _};
use std::time::Duration;

use agentfs_proto::client::{CallError, Client, Deadline};
use agentfs_proto::message::{Call, Hello, Shutdown, Welcome};
use clap::Args;

use super::{Common, Failure, Output};

/// How long the daemon may take for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a request waits for its turn before that is said.
const SILENCE: Duration = Duration::from_secs(1);

/// A session and its calls.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) welcome: Welcome,
    /// Whether nothing is said but what programs read.
    is_quiet: bool,
}

impl Session {
    /// Connects to the daemon.
    pub(crate) fn open(common: &Common, branch: &str) -> Result<Self, Failure> {
        // Inside of `agentfs run` the branch is that of the run.
        let branch = match std::env::var("AGENTFS_BRANCH") {
            Ok(own) if branch.is_empty() => own,
            _ => branch.to_owned(),
        };
        let hello = Hello {
            branch,
            ..Hello::new("agentfs")
        };
        let deadline = Deadline::after(PATIENCE);
        let (client, welcome) = match &common.socket {
            Some(path) => Client::connect(path, hello, deadline)?,
            None => Client::connect_default(hello, deadline)?,
        };
        Ok(Self {
            client,
            welcome,
            is_quiet: common.json,
        })
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<C: Call>(&mut self, request: C) -> Result<C::Answer, CallError> {
        self.call_until(request, Deadline::after(PATIENCE))
    }

    /// The same, for one that may take as long as it takes.
    pub(crate) fn call_long<C: Call>(&mut self, request: C) -> Result<C::Answer, CallError> {
        self.call_until(request, Deadline::NEVER)
    }

    fn call_until<C: Call>(
        &mut self,
        request: C,
        deadline: Deadline,
    ) -> Result<C::Answer, CallError> {
        let is_quiet = self.is_quiet;
        let tell = |ahead| {
            if !is_quiet {
                let line = format!("agentfs: waiting for other requests: {ahead} go first");
                // There is nobody else to tell.
                drop(writeln!(io::stderr(), "{line}"));
            }
        };
        self.client.call_in_turn(request, deadline, SILENCE, tell)
    }
}

/// End the daemon
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentfs shutdown --reason upgrade")]
pub(crate) struct ShutdownArgs {
    /// Why, for the daemon's log
    #[arg(long, default_value = "asked to")]
    reason: String,
}

pub(crate) fn shut_down(
    common: &Common,
    args: ShutdownArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut session = Session::open(common, "")?;
    let pid = session.welcome.daemon_pid;
    session.call(Shutdown {
        reason: args.reason,
    })?;
    if output.is_json() {
        output.json(&serde_json::json!({ "ended": pid }))
    } else {
        output.line(format_args!("the daemon (process {pid}) ends"))
    }
}
