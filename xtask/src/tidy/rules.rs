//! Rules for every crate.

use super::Source;

/// The way of one change through the crates, as every lib.rs shows it.
const FLOW: &str =
    "actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook";

/// The crates on that way.
const CRATES: &[&str] = &[
    "ring",
    "fscore",
    "proto",
    "client",
    "engine",
    "export",
    "daemon",
    "cli",
    "interpose",
    "mount",
    "loom-tests",
    "benches",
];

/// The most lines a file may have.
const MAX_LINES: usize = 600;

/// A file that does one thing is short.
pub(super) fn length(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > MAX_LINES).then(|| {
        format!(
            "{}: {lines} lines, and {MAX_LINES} are the most: split it by what its parts do",
            source.path
        )
    })
}

/// Every crate says where on the way of a change it stands.
pub(super) fn flow_lines(sources: &[Source]) -> Vec<String> {
    CRATES
        .iter()
        .map(|name| format!("{name}/src/lib.rs"))
        .filter(|path| {
            !sources
                .iter()
                .any(|source| source.path == *path && shows_flow(&source.text))
        })
        .map(|path| {
            format!(
                "{path}: one of the first three lines must be the flow line with this crate's own \
                 stage in bold: //! {FLOW}"
            )
        })
        .collect()
}

fn shows_flow(text: &str) -> bool {
    text.lines()
        .take(3)
        .filter_map(|line| line.strip_prefix("//! "))
        .any(|line| line.contains("**") && line.replace("**", "") == FLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_line_needs_a_stage_in_bold() {
        assert!(!shows_flow(&format!("//! {FLOW}\n")));
        let bold = FLOW.replace("Ring", "**Ring**");
        assert!(shows_flow(&format!("//! Models.\n//!\n//! {bold}\n")));
        assert!(!shows_flow(&format!(
            "//! {}\n",
            bold.replace("Router", "Switch")
        )));
    }

    #[test]
    fn file_of_the_longest_allowed_length_passes() {
        let file = |lines: usize| Source {
            path: "a.rs".to_owned(),
            text: "\n".repeat(lines),
        };
        assert_eq!(length(&file(MAX_LINES)), None);
        assert!(length(&file(MAX_LINES + 1)).is_some());
    }
}
