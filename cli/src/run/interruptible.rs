//! Exports what a branch changed, unless a signal comes before that is done.

use std::time::{Duration, Instant};

use agentfs_client::{Deadline, Progress};
use agentfs_proto::message::{BranchExport, Call, Exported};

use super::supervise;
use crate::output::failure::Failure;
use crate::project::connection::{DaemonConnection, SILENCE, say_waiting};
use crate::project::export::kept;

/// Exports a branch. When a signal comes before the end, nothing is left of the export.
pub(super) fn export(
    connection: &mut DaemonConnection,
    request: BranchExport,
) -> Result<Exported, Failure> {
    let branch = request.name.clone();
    let exported = call_unless_signalled(connection, request)?;
    exported.map_err(|signal| {
        // The daemon ends the export with the connection, which ends with this process.
        let why = format!("the export was interrupted by {signal}");
        kept(connection, &branch, &why)
    })
}

/// Sends a request and waits for its answer without a deadline, or for a signal, whose name is returned
/// then.
fn call_unless_signalled<C: Call>(
    connection: &mut DaemonConnection,
    request: C,
) -> Result<Result<C::Answer, &'static str>, Failure> {
    let number = connection.client.send(request.into(), Deadline::NEVER)?;
    let mut turn: Option<(Instant, u64)> = None;
    loop {
        let at_once = Deadline::after(Duration::ZERO);
        let so_far = connection.client.progress(number, at_once);
        match so_far.map_err(|error| connection.addressed(error))? {
            Progress::Answered(answer) => return Ok(Ok(answer)),
            Progress::Waiting(ahead) => turn = Some((Instant::now() + SILENCE, ahead)),
            Progress::Pending => {}
        }
        if let Some((_, ahead)) = turn.take_if(|(at, _)| *at <= Instant::now()) {
            say_waiting(connection.is_quiet, ahead);
        }
        let left = turn.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let signal = supervise::readable_or_signal(&connection.client, left);
        if let Some(signal) = signal.map_err(Failure::Input)? {
            return Ok(Err(signal));
        }
    }
}
