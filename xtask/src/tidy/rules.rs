//! Checks the rules for every crate.

use super::Source;

/// The path of one change through the crates, as every lib.rs shows it.
const FLOW: &str =
    "actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook";

/// The crates on that path.
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

/// Reports a file that is too long: a file that does one thing is short.
pub(super) fn length(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > MAX_LINES).then(|| {
        format!(
            "{}: {lines} lines, and {MAX_LINES} are the most: split it by what its parts do",
            source.path
        )
    })
}

/// Reports an include of another crate's file: what several crates' tests need is in testkit/.
pub(super) fn no_includes(source: &Source) -> Option<String> {
    let is_include = |line: &str| {
        let path = line.trim_start().strip_prefix("#[path = \"");
        path.is_some_and(|path| path.starts_with("../../../"))
    };
    let line = source.text.lines().position(is_include)?;
    let (path, line) = (&source.path, line + 1);
    Some(format!(
        "{path}:{line}: includes a file of another crate: move it to testkit/"
    ))
}

/// Reports a test that sleeps: a test waits for the event itself, with a deadline.
pub(super) fn no_sleeping_tests(source: &Source) -> Option<String> {
    let line = source.text.lines().position(|line| {
        let code = line.trim_start();
        !code.starts_with("//") && code.contains(concat!("thread::", "sleep("))
    })?;
    let (path, line) = (&source.path, line + 1);
    path.contains("/tests/")
        .then(|| format!("{path}:{line}: a test that sleeps: wait for the event, with a deadline"))
}

/// Reports a vague name: a name says what a type is, not that it is useful.
pub(super) fn telling_names(source: &Source) -> Option<String> {
    const VAGUE: [&str; 3] = ["Manager", "Helper", "Util"];
    let is_vague = |line: &str| {
        let words: Vec<&str> = line.split([' ', '<', '(', '{', ';', ':']).collect();
        words.windows(2).any(|pair| {
            matches!(pair, ["struct" | "enum" | "trait" | "type", name]
                if VAGUE.iter().any(|vague| name.contains(vague)))
        })
    };
    let line = source.text.lines().position(is_vague)?;
    let (path, line) = (&source.path, line + 1);
    Some(format!(
        "{path}:{line}: Manager, Helper and Util say nothing: name what the type holds"
    ))
}

/// Reports a product that depends on testkit: only `[dev-dependencies]` may name it.
pub(super) fn testkit_is_for_tests() -> Vec<String> {
    let manifests = CRATES.iter().filter(|name| **name != "benches");
    manifests
        .map(|name| format!("{name}/Cargo.toml"))
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| depends_on_testkit(&text)))
        .map(|path| format!("{path}: agentfs-testkit is for [dev-dependencies] alone"))
        .collect()
}

fn depends_on_testkit(manifest: &str) -> bool {
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if line.starts_with("agentfs-testkit") && !section.contains("dev-dependencies") {
            return true;
        }
    }
    false
}

/// Reports an ignored test: a test that does not run shows nothing.
pub(super) fn no_ignored_tests(source: &Source) -> Option<String> {
    let is_ignored = |line: &str| line.trim_start().starts_with("#[ignore");
    let line = source.text.lines().position(is_ignored)?;
    let (path, line) = (&source.path, line + 1);
    Some(format!(
        "{path}:{line}: an ignored test: let it run, or remove it"
    ))
}

/// Checks that every crate says where on the way of a change it stands.
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
    fn an_include_of_another_crate_and_an_ignored_test_are_found() {
        let file = |text: &str| Source {
            path: "a.rs".to_owned(),
            text: text.to_owned(),
        };
        let include = file("mod a;\n#[path = \"../../../b/tests/c.rs\"]\nmod c;\n");
        assert!(no_includes(&include).is_some_and(|it| it.starts_with("a.rs:2:")));
        assert_eq!(no_includes(&file("#[path = \"linux.rs\"]\nmod c;\n")), None);
        assert!(no_ignored_tests(&file("#[test]\n#[ignore = \"slow\"]\nfn a() {}\n")).is_some());
        assert_eq!(no_ignored_tests(&file("#[test]\nfn a() {}\n")), None);
    }

    #[test]
    fn a_sleeping_test_and_a_vague_name_are_found() {
        let file = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let sleep = concat!("    std::thread::", "sleep(PAUSE);\n");
        assert!(no_sleeping_tests(&file("a/tests/it/b.rs", sleep)).is_some());
        assert_eq!(no_sleeping_tests(&file("a/src/b.rs", sleep)), None);
        let vague = concat!("pub(crate) struct Path", "Helper<'a> {\n");
        assert!(telling_names(&file("a.rs", vague)).is_some());
        assert_eq!(
            telling_names(&file("a.rs", "struct Reader {\n    Helper,\n")),
            None
        );
    }

    #[test]
    fn testkit_in_a_product_is_found() {
        let line = "agentfs-testkit = { workspace = true }\n";
        assert!(depends_on_testkit(&format!("[dependencies]\n{line}")));
        let linux = "[target.'cfg(target_os = \"linux\")'.dev-dependencies]\n";
        assert!(!depends_on_testkit(&format!(
            "[dev-dependencies]\n{line}{linux}{line}"
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
