//! Requests that freeze a project, which may take long: what is left out, and how far the daemon is.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use agentfs_client::CallError;
use agentfs_proto::message::{Call, Status, StatusReport};
use clap::Args;

use super::connection::DaemonConnection;
use super::settings::Settings;
use crate::output::failure::Failure;

/// How long a freeze takes at least before it is reported, and the time between two reports.
const EACH: Duration = Duration::from_millis(500);

/// Options of a frozen branch.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ExcludeArgs {
    /// Leave out of a frozen branch what matches this pattern, as in a .gitignore file: build outputs and
    /// caches, say. It is not there in the branch, applying the branch keeps it in the project, and a frozen
    /// branch of another one leaves out what that one does. May be given several times
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
}

impl ExcludeArgs {
    /// Returns the patterns of the user and of the project. `option` is what the user has to give for
    /// these to have a meaning, and `is_given` whether it is given.
    pub(crate) fn with(
        mut self,
        settings: &Settings,
        (option, is_given): (&str, bool),
    ) -> Result<Vec<String>, Failure> {
        if !is_given && !self.exclude.is_empty() {
            return Err(Failure::Other(format!(
                "--exclude says what is left out of a copy of the project, and without {option} none is \
                 made; give {option} as well, or leave --exclude away"
            )));
        }
        self.exclude.extend(settings.exclude.iter().cloned());
        Ok(self.exclude)
    }
}

/// Returns the settings of the project that a daemon serves.
pub(crate) fn settings(connection: &DaemonConnection) -> Result<Settings, Failure> {
    let lower = &connection.project.lower;
    match lower.is_empty() {
        true => Ok(Settings::default()),
        false => Settings::of(lower.as_path()),
    }
}

/// Files, and bytes that were copied.
type Frozen = (u64, u64);

/// Sends a request that freezes the project, and reports on standard error how far it is: to a terminal,
/// and as a line of JSON each time to a program.
pub(crate) fn call<C: Call>(
    connection: &mut DaemonConnection,
    request: C,
    json: bool,
) -> Result<C::Answer, CallError> {
    if !json && !io::stderr().is_terminal() {
        return connection.call_long(request);
    }
    let before = frozen(&connection.call(Status { after: 0 })?);
    let (done, is_done) = channel::<()>();
    let socket = connection.socket.clone();
    std::thread::scope(|scope| {
        let report = move || report(&socket, before, &is_done, json);
        let reporting = std::thread::Builder::new().spawn_scoped(scope, report);
        let answer = connection.call_long(request);
        drop(done);
        drop(reporting);
        answer
    })
}

/// Reports how far the freeze is until it is done. What cannot be asked or written is left out.
fn report(socket: &Path, before: Frozen, is_done: &Receiver<()>, json: bool) {
    let mut connection = None;
    let mut has_written = false;
    while is_done.recv_timeout(EACH) == Err(RecvTimeoutError::Timeout) {
        if connection.is_none() {
            connection = DaemonConnection::connect(socket, String::new()).ok();
        }
        let report = connection.as_mut().map(|it| it.call(Status { after: 0 }));
        let Some(Ok(report)) = report else {
            return;
        };
        let now = frozen(&report);
        let since = (
            now.0.saturating_sub(before.0),
            now.1.saturating_sub(before.1),
        );
        let line = line(since, json);
        has_written |= io::stderr().write_all(line.as_bytes()).is_ok();
    }
    if has_written && !json {
        drop(io::stderr().write_all(b"\n"));
    }
}

fn frozen(report: &StatusReport) -> Frozen {
    let of = |name: &str| {
        let found = report.counters.iter().find(|it| it.name == name);
        found.map_or(0, |it| it.value)
    };
    (of("freeze_files"), of("freeze_bytes"))
}

fn line((files, bytes): Frozen, json: bool) -> String {
    if json {
        let value = serde_json::json!({ "freezing": { "files": files, "bytes_copied": bytes } });
        return format!("{value}\n");
    }
    let mebibytes = bytes >> 20;
    format!("\r\x1b[Kagentfs: freezing the project: {files} files, {mebibytes} MiB copied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_line_for_people_or_an_object_for_programs() {
        assert_eq!(
            line((12, 5 << 20), false),
            "\r\x1b[Kagentfs: freezing the project: 12 files, 5 MiB copied"
        );
        assert_eq!(
            line((12, 5), true),
            "{\"freezing\":{\"bytes_copied\":5,\"files\":12}}\n"
        );
    }
}
