//! Makes docs/compatibility.md.

use crate::programs::Program;

const HEAD: &str = "\
# What real watcher programs hear

Made by `cargo xtask compat --fix`, never by hand; `cargo xtask compat` checks it.

Each program runs unmodified under `agentfs exec`, in a mounted branch.

| column | what is done |
|---|---|
| On the mount | a program without the library appends a line to a file (open, one write, close) |
| From outside | `agentfs fs write` makes the same change, of which the kernel hears nothing |
| Restore | a snapshot is restored in which the file was another |

\"Once\" means that the program printed what one change makes it print, and nothing more before it
reported the next change. Where a program prints the steps of a writer, these were the steps after the
colon. \"Reported\" means that the program reported the restored file.

";

/// Returns the whole page.
pub(crate) fn page<'a>(programs: impl Iterator<Item = &'a Program>) -> String {
    let mut text = String::from(HEAD);
    text.push_str("| Program | Watches by | On the mount | From outside | Restore |\n");
    text.push_str("|---|---|---|---|---|\n");
    for program in programs {
        text.push_str(&line(program));
    }
    text
}

/// Returns the line of a program that heard everything.
pub(crate) fn line(program: &Program) -> String {
    let Program { name, means, .. } = program;
    let steps = program.steps;
    let once = if steps.is_empty() {
        "once".to_owned()
    } else {
        format!("once: {steps}")
    };
    format!(
        "| {name} | {} | {once} | {once} | reported |\n",
        means.word()
    )
}
