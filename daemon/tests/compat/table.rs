//! docs/compatibility.md.

use std::fmt::Write as _;

use crate::programs::{Means, Program};
use crate::trial::{Heard, Row};

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
pub(crate) fn page<'a>(rows: impl Iterator<Item = (&'a Program, &'a Row)>) -> String {
    let mut text = String::from(HEAD);
    text.push_str("| Program | Watches by | On the mount | From outside | Restore |\n");
    text.push_str("|---|---|---|---|---|\n");
    for (program, row) in rows {
        text.push_str(&line(program, row));
    }
    text
}

/// The program's line of the table.
pub(crate) fn line(program: &Program, row: &Row) -> String {
    let mut line = format!("| {} | {} |", program.name, program.means.word());
    for (heard, yes) in [
        (&row.mount, once(program)),
        (&row.outside, once(program)),
        (&row.restore, "told".to_owned()),
    ] {
        let cell = match (heard, program.means) {
            (Heard::Once, _) => yes.as_str(),
            (Heard::Never, Means::Fanotify) => "no: needs echo",
            (Heard::Never, Means::Inotify | Means::Polling) => "no",
        };
        write!(line, " {cell} |").unwrap_or(());
    }
    line.push('\n');
    line
}

fn once(program: &Program) -> String {
    if program.steps.is_empty() {
        "once".to_owned()
    } else {
        format!("once: {}", program.steps)
    }
}
