//! Runs another command of this program beside the steps that follow, for steps that leave a core idle.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::report::{Failure, Report};
use crate::tools::target_dir;

/// A command of this program that runs meanwhile.
pub(crate) struct Lane {
    name: &'static str,
    started: Instant,
    running: Result<Running, Failure>,
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Lane {
    /// Starts `cargo xtask ARGS`. Nothing of it is printed before it is joined.
    pub(crate) fn start(name: &'static str, args: &[&str]) -> Self {
        println!("\n== {name}: runs beside the next steps");
        let log = target_dir("lanes").join(format!("{}.log", args.join("-")));
        let running = spawn(args, &log)
            .map(|child| Running {
                child,
                log: log.clone(),
            })
            .map_err(|error| Failure::new(format!("{}: {error}", log.display())));
        Self {
            name,
            started: Instant::now(),
            running,
        }
    }

    /// Waits for the command, and adds what it did to the report. Every step of the command has a
    /// limit of its own, so the command ends.
    pub(crate) fn join(self, report: &mut Report) {
        let ended = self.running.and_then(|mut it| {
            let failure = |error: io::Error| Failure::new(format!("{}: {error}", self.name));
            let status = it.child.wait().map_err(failure)?;
            let text = fs::read_to_string(&it.log).map_err(failure)?;
            Ok((status, text))
        });
        report.add_lane(self.name, self.started.elapsed(), ended);
    }
}

fn spawn(args: &[&str], log: &Path) -> io::Result<Child> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let output = File::create(log)?;
    Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn command_that_runs_meanwhile_decides_the_verdict() {
        // Here this program is the tests' own.
        let mut report = Report::new();
        let listed = Lane::start("list", &["--list"]);
        listed.join(&mut report);
        assert_eq!(report.finish(), ExitCode::SUCCESS);

        let mut report = Report::new();
        let refused = Lane::start("refused", &["--no-such-option"]);
        refused.join(&mut report);
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }
}
