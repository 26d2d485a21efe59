//! Why a command failed.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentfs_client::{CallError, ConnectError};

use agentfs_daemon::StartError;
use agentfs_export::command::quoted;

/// A failure, with a text for people.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon cannot be reached.
    Connect(ConnectError),
    /// A request failed. The text names what the request was about.
    Call(String, CallError),
    /// Standard output cannot be written.
    Output(io::Error),
    /// Standard input cannot be read.
    Input(io::Error),
    /// The daemon does not start.
    Start(StartError),
    /// Something else.
    Other(String),
}

impl Failure {
    /// Returns the failure for a directory that the user named and that cannot be used.
    pub(crate) fn directory(path: &Path, error: &io::Error) -> Self {
        let shown = path.display();
        if error.kind() == io::ErrorKind::NotConnected {
            return Self::Other(format!(
                "{shown}: {error}: the daemon that served a mount here was killed; mount over it again, \
                 or take it away with: agentfs umount {}",
                quoted(dead_mount(path).as_os_str())
            ));
        }
        Self::Other(format!("{shown}: {error}"))
    }

    /// Reports the failure on standard error and returns the exit status of the process.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if let Self::Output(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // The reader has read what it wanted.
            return ExitCode::SUCCESS;
        }
        let text = if json {
            let refused = if let Self::Call(_, CallError::Refused(error)) = self {
                Some(error)
            } else {
                None
            };
            serde_json::json!({
                "error": self.to_string(),
                "code": refused.map(|error| error.code.to_string()),
                "errno": refused.map(|error| error.errno).filter(|errno| *errno != 0),
            })
            .to_string()
        } else {
            format!("agentfs: {self}")
        };
        // Nothing is left to report to when this fails.
        writeln!(io::stderr(), "{text}").map_or(ExitCode::FAILURE, |()| ExitCode::FAILURE)
    }
}

/// Returns the mount whose daemon was killed and on which a path lies: the uppermost directory that
/// cannot be looked at.
fn dead_mount(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_dead = |it: &&Path| {
        let found = std::fs::symlink_metadata(it);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
    };
    let mount = path.ancestors().take_while(is_dead).last();
    mount.unwrap_or(&path).to_owned()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(ConnectError::NoDaemon(socket)) => {
                let text = "no AgentFS daemon listens at";
                let command = if *socket == agentfs_proto::socket::default_path() {
                    "agentfs daemon".to_owned()
                } else {
                    format!("agentfs --socket {} daemon", quoted(socket.as_os_str()))
                };
                let socket = socket.display();
                write!(f, "{text} {socket}; start one with: {command}")
            }
            Self::Connect(error) => error.fmt(f),
            Self::Call(about, error) if about.is_empty() => error.fmt(f),
            Self::Call(about, error) => write!(f, "{about}: {error}"),
            Self::Output(error) => write!(f, "standard output: {error}"),
            Self::Input(error) => write!(f, "standard input: {error}"),
            Self::Start(error) => error.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(String::new(), error)
    }
}
