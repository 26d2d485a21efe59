//! A session with the daemon.

use std::time::Duration;

use agentfs_proto::client::{CallError, Client, Deadline};
use agentfs_proto::message::{Call, Hello, Welcome};

use super::{Common, Failure};

/// How long the daemon may take for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A session and its calls.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) welcome: Welcome,
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
        Ok(Self { client, welcome })
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<C: Call>(&mut self, request: C) -> Result<C::Answer, CallError> {
        self.client.call(request, Deadline::after(PATIENCE))
    }
}
