//! Runs steps, and reports what was run, how long it took, and how it ended.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::process::{Command, ExitCode, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::process_tree;

/// How long a command may be silent: longer than building everything takes on a busy machine. nextest
/// ends single tests long before (.config/nextest.toml).
const SILENCE: Duration = Duration::from_secs(20 * 60);

/// How many of a failed command's last lines the summary repeats: of a long log, often only the end
/// is kept, and the reason would be lost with the rest.
const LAST_LINES: usize = 12;

/// Why a step failed, with the way out.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The outcome of a step that did not fail.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    /// The step is done, with a note that is worth a place in the summary.
    Note(String),
    /// There was nothing to check; the text gives the reason.
    Skipped(String),
}

pub(crate) type StepResult = Result<Outcome, Failure>;

/// How many tests ran, summed over test binaries.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Adds the closing line of a test program (`test result: ok. 3 passed; 0 failed; 1 ignored;
    /// ...`) or of nextest (`Summary [   1.2s] 5 tests run: 3 passed, 1 failed, 1 timed out, 0
    /// skipped`).
    fn add_line(&mut self, line: &str) {
        let rest = match line.trim_start().strip_prefix("Summary [") {
            Some(rest) => rest.split_once(" run: ").map(|(_, rest)| rest),
            None => line.strip_prefix("test result: "),
        };
        let Some(rest) = rest else {
            return;
        };
        let words: Vec<&str> = rest.split([' ', ';', ',']).collect();
        for pair in words.windows(2) {
            let [count, what] = pair else { continue };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match *what {
                "passed" => self.passed += count,
                "failed" | "timed" => self.failed += count,
                "ignored" | "skipped" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Returns the steps in the summary of another run of this program, a line each.
fn steps_of(text: &str) -> String {
    let summary = text.rsplit_once("== summary\n").map_or("", |(_, it)| it);
    let steps = summary
        .lines()
        .take_while(|line| !line.starts_with("total "));
    steps.map(|line| format!("\n    {line}")).collect()
}

struct Step {
    name: String,
    took: Duration,
    result: StepResult,
}

/// The steps of one run.
pub(crate) struct Report {
    started: Instant,
    steps: Vec<Step>,
    tally: Option<Tally>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::new(),
            tally: None,
        }
    }

    /// Runs a step; later steps run however it ends. Returns true if it did not fail.
    pub(crate) fn step(&mut self, name: &str, body: impl FnOnce() -> StepResult) -> bool {
        println!("\n== {name}");
        let started = Instant::now();
        let result = body();
        let took = started.elapsed();
        let step = Step {
            name: name.to_owned(),
            took,
            result,
        };
        println!("== {step}");
        let passed = step.result.is_ok();
        self.steps.push(step);
        passed
    }

    /// Runs a step that is a test command, and counts its tests.
    pub(crate) fn test_step(&mut self, name: &str, command: &mut Command) -> bool {
        let mut tally = Tally::default();
        let passed = self.step(name, || {
            stream(command, |line| tally.add_line(line))?;
            if tally.passed + tally.failed == 0 {
                return Err(Failure::new(format!("{} ran no test", show(command))));
            }
            Ok(Outcome::Note(format!("{} tests", tally.passed)))
        });
        self.tally.get_or_insert_default().add(tally);
        passed
    }

    /// Adds a command of this program that ran beside other steps: what it printed, its tests, and its
    /// verdict with the steps of its own summary.
    pub(crate) fn add_lane(
        &mut self,
        name: &str,
        took: Duration,
        ended: Result<(ExitStatus, String), Failure>,
    ) {
        let result = ended.and_then(|(status, text)| {
            println!("{text}");
            let mut tally = Tally::default();
            text.lines().for_each(|line| tally.add_line(line));
            self.tally.get_or_insert_default().add(tally);
            let steps = steps_of(&text);
            if status.success() {
                Ok(Outcome::Note(steps))
            } else {
                Err(Failure::new(format!("{status}{steps}")))
            }
        });
        let step = Step {
            name: name.to_owned(),
            took,
            result,
        };
        println!("== {step}");
        self.steps.push(step);
    }

    /// Prints the summary.
    pub(crate) fn finish(self) -> ExitCode {
        println!("\n== summary");
        for step in &self.steps {
            println!("{step}");
        }
        println!(
            "{:<8} {:>7.1} s",
            "total",
            self.started.elapsed().as_secs_f64()
        );
        if let Some(tally) = self.tally {
            let Tally {
                passed,
                failed,
                ignored,
            } = tally;
            println!("tests: {passed} passed, {failed} failed, {ignored} skipped");
        }
        if self.steps.iter().all(|step| step.result.is_ok()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, why) = match &self.result {
            Ok(Outcome::Done) => ("ok", None),
            Ok(Outcome::Note(note)) => ("ok", Some(note.as_str())),
            Ok(Outcome::Skipped(why)) => ("skipped", Some(why.as_str())),
            Err(Failure(why)) => ("FAILED", Some(why.as_str())),
        };
        write!(
            f,
            "{word:<8} {:>7.1} s  {}",
            self.took.as_secs_f64(),
            self.name
        )?;
        why.map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// Formats the command as a user would type it, without the environment.
fn show(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or_default()
        .display()
        .to_string();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

fn announce(command: &Command) {
    let mut env = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value
            && key != "PATH"
        {
            env.push_str(&format!("{}={:?} ", key.display(), value));
        }
    }
    println!("$ {env}{}", show(command));
}

/// Runs a command, and lets its output through.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    stream(command, |_| {})
}

/// Runs a command as [`run`] does, and kills it with all that it started when it takes longer.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<(), Failure> {
    finish(limit, command, Stdio::inherit()).map(drop)
}

/// Returns what a command wrote to its standard output, and kills it with all that it started when
/// it takes longer.
pub(crate) fn capture_within(limit: Duration, command: &mut Command) -> Result<String, Failure> {
    finish(limit, command, Stdio::piped())
}

fn finish(limit: Duration, command: &mut Command, stdout: Stdio) -> Result<String, Failure> {
    announce(command);
    let shown = show(command);
    let failure = |error: io::Error| Failure::new(format!("{shown}: {error}"));
    let child = command.stdout(stdout).spawn().map_err(failure)?;
    let id = child.id();
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(limit) else {
        let processes = process_tree::kill(id);
        return Err(Failure::new(format!(
            "`{shown}` took longer than {} minutes, and these were killed:\n{processes}",
            limit.as_secs() / 60
        )));
    };
    captured(&shown, &output.map_err(failure)?)
}

/// Returns what the command wrote, if it succeeded.
fn captured(shown: &str, output: &Output) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        println!("{text}");
        Err(Failure::new(format!(
            "`{shown}` ended with {}",
            output.status
        )))
    }
}

/// Runs a command, letting its output through and showing every line of it to `look`. Kills it, with
/// all that it started, when it has been silent for [`SILENCE`].
fn stream(command: &mut Command, mut look: impl FnMut(&str)) -> Result<(), Failure> {
    announce(command);
    let shown = show(command);
    let failure = |error: io::Error| Failure::new(format!("{shown}: {error}"));
    let (output, input) = io::pipe().map_err(failure)?;
    // nextest reports on standard error, test programs on standard output.
    command.stdout(input.try_clone().map_err(failure)?);
    let mut child = command.stderr(input).spawn().map_err(failure)?;
    // The command holds ends of the pipe, too; while it does, the output would never end.
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let lines = lines(output);
    let mut last = VecDeque::with_capacity(LAST_LINES);
    let mut stdout = io::stdout().lock();
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                let line = line.map_err(failure)?;
                let text = String::from_utf8_lossy(&line);
                look(&text);
                writeln!(stdout, "{text}").map_err(failure)?;
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(text.into_owned());
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let processes = process_tree::kill(child.id());
                child.wait().map_err(failure)?;
                return Err(Failure::new(format!(
                    "`{shown}` was silent for {} minutes, and these were killed:\n{processes}",
                    SILENCE.as_secs() / 60
                )));
            }
        }
    }
    let status = child.wait().map_err(failure)?;
    if status.success() {
        return Ok(());
    }
    let mut text = format!("`{shown}` ended with {status}");
    for line in &last {
        text.push_str(&format!("\n    | {line}"));
    }
    Err(Failure::new(text))
}

/// Reads the lines of a pipe until all its writers have closed it.
fn lines(pipe: PipeReader) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Runs a command and returns what it wrote to its standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String, Failure> {
    capture_within(SILENCE, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_sums_the_closing_lines_of_libtest() {
        let mut tally = Tally::default();
        tally.add_line("test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 3 filtered out; finished in 1.20s");
        tally.add_line("test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s");
        tally.add_line("running 3 tests");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (13, 1, 2));
    }

    #[test]
    fn tally_takes_the_summary_of_nextest() {
        let mut tally = Tally::default();
        tally.add_line("     Summary [  12.345s] 19 tests run: 15 passed (2 slow), 3 failed, 1 timed out, 2 skipped");
        tally.add_line("        PASS [   0.010s] agentfs-ring::it wrap");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (15, 4, 2));
    }

    #[test]
    fn lane_is_a_step_with_the_steps_of_its_own_summary() {
        let status = |command| Command::new(command).status().unwrap();
        let text = "== models\ntest result: ok. 14 passed; 0 failed; 0 ignored\n\n\
            == summary\nok           9.0 s  models: 14 tests\ntotal        9.0 s\ntests: 14 passed\n";
        let mut report = Report::new();
        let took = Duration::from_secs(9);
        report.add_lane("loom", took, Ok((status("true"), text.to_owned())));
        let line = report.steps[0].to_string();
        assert_eq!(
            line,
            "ok           9.0 s  loom: \n    ok           9.0 s  models: 14 tests"
        );
        assert_eq!(report.tally.unwrap().passed, 14);
        report.add_lane("loom", took, Ok((status("false"), text.to_owned())));
        assert!(report.steps[1].to_string().starts_with("FAILED"));
        report.add_lane("loom", took, Err(Failure::new("no such file")));
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }

    #[test]
    fn failure_repeats_the_last_lines_of_the_command() {
        let script = "for i in $(seq 20); do echo line $i >&2; done; exit 3";
        let failure = run(Command::new("sh").args(["-c", script])).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("exit status: 3\n    | line 9\n"), "{text}");
        assert!(text.ends_with("    | line 20"), "{text}");
    }

    #[test]
    fn command_that_takes_too_long_is_killed_and_named() {
        let limit = Duration::from_millis(100);
        let failure = run_within(limit, Command::new("sleep").arg("2345")).unwrap_err();
        assert!(failure.to_string().contains("sleep 2345"), "{failure}");
        let limit = Duration::from_secs(60);
        let said = capture_within(limit, Command::new("echo").arg("there"));
        assert_eq!(said.unwrap(), "there\n");
    }
}
