//! Tests one program.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::mounted_branch::{MountedBranch, Side, copy};
use crate::notify_watch;
use crate::programs::Program;
use crate::running::Running;

/// The number of changes, each of which has a file and a sentinel of its own.
const CHANGES: u32 = 5;

/// The file that differs in the snapshot, and that nothing else changes.
const RESTORED: &str = "restored.ts";

const TSCONFIG: &str = r#"{
  "compilerOptions": { "noEmit": true, "allowImportingTsExtensions": true, "types": [] },
  "include": ["*.ts"]
}
"#;

/// A failure, described for people.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Runs the program through all changes, and checks that it hears of each once.
pub(crate) fn run(program: &Program, folder: &Path) -> Result<(), Failed> {
    let branch = MountedBranch::new()?;
    fill(&branch, program, folder)?;
    branch.snapshot("create")?;
    branch.append(Side::Mount, RESTORED, "// after the snapshot")?;
    let output = TempDir::new()?;
    let mut command = branch.exec(words(program, folder)?);
    command
        .env("OUT", output.path())
        .env("PATH", path_with(folder)?);
    let running = Running::start(&mut command)?;
    let (lines, ready) = running.until(|_| true, |line| line.contains(program.ready));
    if !ready {
        return Err(format!("it did not start: {lines:#?}").into());
    }
    let mut trial = Trial {
        program,
        branch: &branch,
        running: &running,
        changes: 0,
        sentinels: 0,
    };
    // Each side has two turns, in this order, so that an event that comes too late from the turn
    // before would show.
    for side in [Side::Mount, Side::Outside, Side::Mount, Side::Outside] {
        trial.change(side)?;
    }
    trial.restore()
}

/// Fills the branch with what the program finds when it starts.
fn fill(branch: &MountedBranch, program: &Program, folder: &Path) -> io::Result<()> {
    let root = branch.project();
    let mut index = format!("import \"./{RESTORED}\";\n");
    for number in 1..=CHANGES {
        for name in [format!("file{number}.ts"), format!("sentinel{number}.ts")] {
            fs::write(root.join(&name), "export {};\n// first\n")?;
            index.push_str(&format!("import \"./{name}\";\n"));
        }
    }
    fs::write(root.join("index.ts"), index)?;
    fs::write(root.join(RESTORED), "// first\n")?;
    fs::write(root.join("tsconfig.json"), TSCONFIG)?;
    match program.carries {
        Some(path) => copy(&folder.join(path), &branch.point().join("compiler")),
        None => Ok(()),
    }
}

/// Returns the command, with the script's path instead of its name.
fn words(program: &Program, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let words = program.command;
    if words == [notify_watch::ARGUMENT] {
        return Ok(vec![env::current_exe()?, notify_watch::ARGUMENT.into()]);
    }
    let Some((script, runner)) = words.split_last() else {
        return Ok(Vec::new());
    };
    let mut words: Vec<PathBuf> = runner.iter().map(PathBuf::from).collect();
    words.push(folder.join(script));
    Ok(words)
}

fn path_with(folder: &Path) -> Result<std::ffi::OsString, env::JoinPathsError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = folder.join("venv/bin");
    env::join_paths(std::iter::once(installed).chain(env::split_paths(&path)))
}

struct Trial<'a> {
    program: &'a Program,
    branch: &'a MountedBranch,
    running: &'a Running,
    changes: u32,
    sentinels: u32,
}

impl Trial<'_> {
    /// Changes the file, waits until the program reports the change, then changes the sentinel and
    /// reads on until the program reports that: a second report of the first change would have come
    /// by then.
    fn change(&mut self, side: Side) -> Result<(), Failed> {
        self.changes += 1;
        let line = format!("// change {}", self.changes);
        let file = self.filled("file{k}.ts");
        self.branch.append(side, &file, &line)?;
        let wanted = self.expected(self.program.heard);
        let mut lines = self.read(side, &wanted)?;
        self.sentinels += 1;
        let line = self.filled(self.program.sentinel);
        let file = self.filled("sentinel{s}.ts");
        self.branch.append(side, &file, &line)?;
        let end = self.expected(self.program.sentinel_heard);
        lines.extend(self.read(side, &end)?);
        let once: Vec<_> = wanted.iter().chain(&end).collect();
        if matches(&lines, &once) {
            return Ok(());
        }
        Err(format!("{side:?}: {once:#?} and nothing else, but {lines:#?}").into())
    }

    /// Restores the snapshot. Programs may report it in any way and as often as they like; they
    /// must hear of the next change as before.
    fn restore(&mut self) -> Result<(), Failed> {
        self.branch.snapshot("restore")?;
        let restored = self.program.restored;
        let reported = self.running.until(|_| true, |it| it.contains(restored));
        if let (lines, false) = reported {
            return Err(format!("restore: {restored:?} in time, but {lines:#?}").into());
        }
        self.changes += 1;
        let line = format!("// change {}", self.changes);
        let file = self.filled("file{k}.ts");
        self.branch.append(Side::Outside, &file, &line)?;
        let next = self.program.heard.last().copied().unwrap_or_default();
        self.read(Side::Outside, &[self.filled(next)])?;
        Ok(())
    }

    /// Reads the lines that count, up to the last of the wanted ones.
    fn read(&self, side: Side, wanted: &[String]) -> Result<Vec<String>, Failed> {
        let last = wanted.last().map(String::as_str).unwrap_or_default();
        let counts = |line: &str| self.program.counts.iter().any(|it| line.contains(it));
        let reported = self.running.until(counts, |line| matches_line(line, last));
        match reported {
            (lines, true) => Ok(lines),
            (lines, false) => Err(format!("{side:?}: {wanted:#?} in time, but {lines:#?}").into()),
        }
    }

    fn expected(&self, templates: &[&str]) -> Vec<String> {
        templates.iter().map(|it| self.filled(it)).collect()
    }

    fn filled(&self, template: &str) -> String {
        template
            .replace("{k}", &self.changes.to_string())
            .replace("{s}", &self.sentinels.to_string())
    }
}

fn matches(lines: &[String], wanted: &[&String]) -> bool {
    lines.len() == wanted.len()
        && lines
            .iter()
            .zip(wanted)
            .all(|(line, wanted)| matches_line(line, wanted))
}

/// Returns whether the line has the parts of `wanted` in it, which `*` separates, one after the
/// other.
fn matches_line(line: &str, wanted: &str) -> bool {
    let mut rest = line;
    wanted.split(" * ").all(|part| {
        rest.find(part)
            .map(|at| rest = &rest[at + part.len()..])
            .is_some()
    })
}
