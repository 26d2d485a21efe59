//! One program put to the test.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::notify_watch;
use crate::programs::{Means, Program};
use crate::rig::{Rig, Side, copy};
use crate::running::Running;
use crate::support::PATIENCE;

/// How long a program that only the kernel tells is waited for, when it is to hear of what the
/// kernel is not told.
const SHORT: Duration = Duration::from_secs(3);

/// How many changes there are, each of its own file, and each with a sentinel.
const CHANGES: u32 = 5;

/// The file that is another in the snapshot, and that nothing else changes.
const RESTORED: &str = "restored.ts";

const TSCONFIG: &str = r#"{
  "compilerOptions": { "noEmit": true, "allowImportingTsExtensions": true, "types": [] },
  "include": ["*.ts"]
}
"#;

/// What a program heard of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// Exactly what one change makes it print.
    Once,
    Never,
}

/// What was measured of a program.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) mount: Heard,
    pub(crate) outside: Heard,
    pub(crate) restore: Heard,
}

/// A failure, told for people.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Runs the program through everything.
pub(crate) fn run(program: &Program, folder: &Path) -> Result<Row, Failed> {
    let rig = Rig::new()?;
    fill(&rig, program, folder)?;
    rig.snapshot("create")?;
    rig.append(Side::Mount, RESTORED, "// after the snapshot")?;
    let output = TempDir::new()?;
    let mut command = rig.exec(words(program, folder)?);
    command
        .env("OUT", output.path())
        .env("PATH", path_with(folder)?);
    let running = Running::start(&mut command)?;
    let (lines, ready) = running.until(program.ready, PATIENCE);
    if !ready {
        return Err(format!("it did not start: {lines:#?}").into());
    }
    let mut trial = Trial {
        program,
        rig: &rig,
        running: &running,
        changes: 0,
        sentinels: 0,
    };
    let row = Row {
        mount: trial.change(Side::Mount)?,
        outside: trial.change(Side::Outside)?,
        restore: Heard::Never,
    };
    // Once more each, in this order: what comes too late from before would show.
    for (side, before) in [(Side::Mount, &row.mount), (Side::Outside, &row.outside)] {
        if *before == Heard::Never {
            continue;
        }
        let again = trial.change(side)?;
        if again != *before {
            return Err(format!("{side:?}: first {before:?}, then {again:?}").into());
        }
    }
    let restore = trial.restore(&row)?;
    Ok(Row { restore, ..row })
}

/// What is in the branch before the program starts.
fn fill(rig: &Rig, program: &Program, folder: &Path) -> io::Result<()> {
    let root = rig.project();
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
        Some(path) => copy(&folder.join(path), &rig.point().join("compiler")),
        None => Ok(()),
    }
}

/// The command, with the script's place instead of its name.
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
    rig: &'a Rig,
    running: &'a Running,
    changes: u32,
    sentinels: u32,
}

impl Trial<'_> {
    /// Changes the file, waits for the program to tell, then changes the sentinel and reads on until
    /// that is told: twice is seen by then.
    fn change(&mut self, side: Side) -> Result<Heard, Failed> {
        self.changes += 1;
        let line = format!("// change {}", self.changes);
        let file = self.filled("file{k}.ts");
        self.rig.append(side, &file, &line)?;
        let wanted = self.expected(self.program.heard);
        let patience = self.patience(side);
        let (mut lines, told) = self.read(&wanted, patience);
        if !told && self.program.means != Means::Fanotify {
            return Err(format!("{side:?}: {wanted:#?} in time, but {lines:#?}").into());
        }
        // A sentinel that is always heard, where the change was not.
        let sentinel = if told { side } else { Side::Mount };
        self.sentinels += 1;
        let line = self.filled(self.program.sentinel);
        let file = self.filled("sentinel{s}.ts");
        self.rig.append(sentinel, &file, &line)?;
        let end = self.expected(self.program.sentinel_heard);
        let (rest, ended) = self.read(&end, PATIENCE);
        lines.extend(rest);
        if !ended {
            return Err(format!("{side:?}: {end:#?} in time, but {lines:#?}").into());
        }
        let once: Vec<_> = wanted.iter().chain(&end).collect();
        if told && matches(&lines, &once) {
            return Ok(Heard::Once);
        }
        if !told && matches(&lines, &end.iter().collect::<Vec<_>>()) {
            return Ok(Heard::Never);
        }
        Err(format!("{side:?}: {once:#?} and nothing else, but {lines:#?}").into())
    }

    /// Restores the snapshot. Programs may tell of it in any way and as often as they like; they must hear of the next change as before.
    fn restore(&mut self, row: &Row) -> Result<Heard, Failed> {
        self.rig.snapshot("restore")?;
        let restored = self.program.restored;
        let (lines, told) = self.running.until(restored, self.patience(Side::Outside));
        if !told && self.program.means != Means::Fanotify {
            return Err(format!("restore: {restored:?} in time, but {lines:#?}").into());
        }
        self.changes += 1;
        let side = match row.outside {
            Heard::Once => Side::Outside,
            Heard::Never => Side::Mount,
        };
        let line = format!("// change {}", self.changes);
        self.rig.append(side, &self.filled("file{k}.ts"), &line)?;
        let next = self.program.heard.last().copied().unwrap_or_default();
        let (lines, next_told) = self.read(&[self.filled(next)], PATIENCE);
        if !next_told {
            return Err(format!("the change after the restore in time, but {lines:#?}").into());
        }
        Ok(if told { Heard::Once } else { Heard::Never })
    }

    fn patience(&self, side: Side) -> Duration {
        match (self.program.means, side) {
            (Means::Fanotify, Side::Outside) => SHORT,
            _ => PATIENCE,
        }
    }

    /// Reads the lines that count, up to the last of these.
    fn read(&self, wanted: &[String], patience: Duration) -> (Vec<String>, bool) {
        let last = wanted.last().map(String::as_str).unwrap_or_default();
        let mut lines = Vec::new();
        loop {
            let Ok(line) = self.running.line(patience) else {
                return (lines, false);
            };
            if self.program.counts.iter().any(|it| line.contains(it)) {
                let is_last = matches_line(&line, last);
                lines.push(line);
                if is_last {
                    return (lines, true);
                }
            }
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

/// Whether the line has the parts in it, which `*` separates, one after the other.
fn matches_line(line: &str, wanted: &str) -> bool {
    let mut rest = line;
    wanted.split(" * ").all(|part| {
        rest.find(part)
            .map(|at| rest = &rest[at + part.len()..])
            .is_some()
    })
}
