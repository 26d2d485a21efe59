//! Starting watchers: what is preloaded into them, and what they are asked to do.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use super::{Api, Reader};
use crate::Failure;
use crate::backend::Backend;
use crate::child::{Process, library, this_program};

/// A watcher in a process of its own.
#[derive(Debug)]
pub(crate) struct Watcher(Process);

/// What a watcher is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    pub(crate) api: Api,
    pub(crate) reader: Reader,
    /// The directory, as the backend names it.
    pub(crate) directory: &'a str,
    pub(crate) files: u32,
    /// An answer for each event.
    pub(crate) each: bool,
}

fn preload(api: Api) -> Result<Option<String>, Failure> {
    let shim = || library("libagentfs_interpose_shim.so");
    Ok(match api {
        Api::Native | Api::Eventfd => None,
        Api::Inotify => Some(shim()?.display().to_string()),
        Api::Kqueue => {
            let kqueue = library("libagentfs_testkq_preload.so")?;
            Some(format!("{}:{}", shim()?.display(), kqueue.display()))
        }
    })
}

/// Returns a value as the command line names it.
fn named(value: &impl clap::ValueEnum) -> String {
    let named = value.to_possible_value();
    named.map_or_else(String::new, |it| it.get_name().to_owned())
}

impl Watcher {
    /// Starts a watcher, and waits until it watches.
    pub(crate) fn start(backend: &Backend, task: Task<'_>) -> Result<Self, Failure> {
        let mut command = this_program()?;
        command
            .arg("watch")
            .args(["--api", &named(&task.api)])
            .args(["--reader", &named(&task.reader)])
            .args(["--files", &task.files.to_string()])
            .arg("--root")
            .arg(backend.seen_as(task.directory))
            .args(task.each.then_some("--each"));
        if let Some(socket) = backend.socket() {
            command.arg("--socket").arg(socket);
            command.env("AGENTFS_SOCKET", socket);
            if let Some(libraries) = preload(task.api)? {
                command.env("LD_PRELOAD", libraries);
            }
        }
        Self::ready(command)
    }

    /// Starts a program that waits for an eventfd and nothing else.
    pub(crate) fn on_eventfd(bell: OwnedFd, reader: Reader) -> Result<Self, Failure> {
        let mut command = this_program()?;
        command
            .args([
                "watch", "--api", "eventfd", "--root", "/", "--files", "0", "--each",
            ])
            .args(["--reader", &named(&reader)])
            .stderr(bell);
        Self::ready(command)
    }

    fn ready(command: Command) -> Result<Self, Failure> {
        let watcher = Self(Process::start(command)?);
        match watcher.0.answer()?.as_str() {
            "ready" => Ok(watcher),
            other => Err(format!("a watcher did not get ready: {other}").into()),
        }
    }

    /// Sends the next command.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        self.0.say("")
    }

    /// Returns the next line, or `None` when none comes in time.
    pub(crate) fn line(&self, patience: Duration) -> Result<Option<String>, Failure> {
        self.0.line(patience)
    }

    /// Wakes the watcher, and returns the nanoseconds until its call has returned.
    pub(crate) fn woken(
        &mut self,
        wake: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        self.0.woken(wake)
    }
}
