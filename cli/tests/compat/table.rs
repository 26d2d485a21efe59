//! docs/compatibility.md.

use crate::programs::Program;

const HEAD: &str = "\
# What real watcher programs hear

Made by `cargo xtask compat --fix`, never by hand; `cargo xtask compat` checks it.

Each program runs unmodified under `agentfs exec`, in a mounted branch. A line is written behind the
end of a file (open, one write, close): on the mount, by a program without the library; and from
outside, by `agentfs fs write`, of which the kernel hears nothing. Then a snapshot is restored in which
the file was another. \"Once\" means that the program printed of the change what one change makes it
print, and nothing more before it told of the next one; where it shows the steps of a writer, they
were the ones named. \"Told\" means that it told of the restored file.

";

/// The whole page.
pub(crate) fn page<'a>(programs: impl Iterator<Item = &'a Program>) -> String {
    let mut text = String::from(HEAD);
    text.push_str("| Program | Watches by | On the mount | From outside | Restore |\n");
    text.push_str("|---|---|---|---|---|\n");
    for program in programs {
        text.push_str(&line(program));
    }
    text
}

/// The line of a program that heard everything.
pub(crate) fn line(program: &Program) -> String {
    let Program { name, means, .. } = program;
    let steps = program.steps;
    let once = if steps.is_empty() {
        "once".to_owned()
    } else {
        format!("once: {steps}")
    };
    format!("| {name} | {} | {once} | {once} | told |\n", means.word())
}
