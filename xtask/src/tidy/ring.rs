//! Checks the rules for the ring: where memory orderings may be, that each has its partner, and
//! that the document follows when the layout changes.

use std::fs;
use std::path::Path;

use super::{Source, read};
use crate::report::{Failure, Outcome, StepResult};

const ORDERINGS: &str = "ring/src/ordering.rs";

/// Files that may name an atomic type, and why.
const ATOMICS: &[(&str, &str)] = &[
    ("ring/src/sync.rs", "the seam for loom"),
    ("ring/src/region/mapped.rs", "places the words in a mapping"),
    (
        "ring/src/mapping.rs",
        "counts names; nothing shared between processes",
    ),
    (
        "ring/src/requests/mapped.rs",
        "places the words in a mapping",
    ),
];

const LAYOUT: &str = "ring/src/layout.rs";
const ABI: &str = "docs/ring-abi.md";
const HASH_MARK: &str = "Hash of ring/src/layout.rs: ";

/// Reports orderings outside of their file: an ordering there has no model.
pub(super) fn orderings(source: &Source) -> Vec<String> {
    let path = source.path.as_str();
    if !path.starts_with("ring/src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let strong = ["Acquire", "Release", "AcqRel", "SeqCst"];
    let spells = |word: &&str| source.text.contains(&format!("Ordering::{word}"));
    if path != ORDERINGS && strong.iter().any(spells) {
        found.push(format!(
            "{path}: orderings beyond Relaxed are functions of {ORDERINGS}, where each has a label, \
             a partner and a mutant"
        ));
    }
    if !ATOMICS.iter().any(|(file, _)| *file == path) && source.text.contains("sync::atomic") {
        found.push(format!(
            "{path}: take atomics from crate::sync, or loom does not see them"
        ));
    }
    found
}

/// Checks that every label is defined once, named by another as its partner, used, and a mutant.
pub(super) fn labels(sources: &[Source]) -> Vec<String> {
    let Some(orderings) = sources.iter().find(|source| source.path == ORDERINGS) else {
        return vec![format!("{ORDERINGS} is missing")];
    };
    let definitions = definitions(&orderings.text);
    let mut found = Vec::new();
    for (index, definition) in definitions.iter().enumerate() {
        let Definition {
            label, function, ..
        } = definition;
        let others = || {
            definitions
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, other)| other)
        };
        if others().any(|other| other.label == *label) {
            found.push(format!("{ORDERINGS}: {label} is defined twice"));
        }
        if !others().any(|other| other.text.contains(label.as_str())) {
            found.push(format!(
                "{ORDERINGS}: no other label names {label} as its partner"
            ));
        }
        let call = format!("ordering::{function}()");
        if !sources.iter().any(|source| source.text.contains(&call)) {
            found.push(format!("{ORDERINGS}: {label} is used nowhere"));
        }
        if !orderings.text.contains(&format!("    \"{function}\",\n")) {
            found.push(format!(
                "{ORDERINGS}: \"{function}\" is missing among the MUTANTS"
            ));
        }
    }
    if definitions.is_empty() {
        found.push(format!("{ORDERINGS}: defines no label"));
    }
    found
}

struct Definition {
    /// The label as it is written in documentation: `ORDERING\[publish\]`.
    label: String,
    function: String,
    /// The function's documentation, as one line.
    text: String,
}

/// Returns the functions whose documentation starts with a label and a colon.
fn definitions(text: &str) -> Vec<Definition> {
    let mut all = Vec::new();
    let mut documentation = String::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("/// ") {
            documentation.push_str(line);
            documentation.push(' ');
        } else if let Some(rest) = line.strip_prefix("pub(crate) fn ") {
            let labelled =
                documentation.starts_with("ORDERING\\[") || documentation.starts_with("FENCE\\[");
            if labelled && let Some((label, _)) = documentation.split_once(':') {
                all.push(Definition {
                    label: label.to_owned(),
                    function: rest.split('(').next().unwrap_or_default().to_owned(),
                    text: documentation.clone(),
                });
            }
            documentation.clear();
        } else if line.is_empty() {
            documentation.clear();
        }
    }
    all
}

/// Checks that the document names the layout that it describes.
pub(super) fn abi_hash() -> Result<Option<String>, Failure> {
    let hash = layout_hash()?;
    let document = read(Path::new(ABI))?;
    Ok((!document.contains(&format!("{HASH_MARK}{hash}"))).then(|| {
        format!(
            "{ABI}: {LAYOUT} is not the one it describes: bring the document (and, if memory looks \
             different now, VERSION) up to date, then run `cargo xtask lint --fix`"
        )
    }))
}

/// Writes the present hash into the document.
pub(crate) fn renew_abi_hash() -> StepResult {
    let hash = layout_hash()?;
    let document = read(Path::new(ABI))?;
    let renewed: String = document
        .lines()
        .map(|line| match line.split_once(HASH_MARK) {
            Some((before, _)) => format!("{before}{HASH_MARK}{hash}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    if renewed == document {
        return Ok(Outcome::Done);
    }
    fs::write(ABI, renewed).map_err(|error| Failure::new(format!("{ABI}: {error}")))?;
    Ok(Outcome::Note(
        "renewed: read the document once more".to_owned(),
    ))
}

/// Returns the hash of the layout without its tests.
fn layout_hash() -> Result<String, Failure> {
    let text = read(Path::new(LAYOUT))?;
    let layout = text.split("#[cfg(test)]").next().unwrap_or_default();
    Ok(format!("{:016x}", fnv1a(layout.as_bytes())))
}

/// Hashes by FNV-1a, which is the same in every version of Rust.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn fnv1a_of_known_text() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn ordering_outside_its_file_is_refused() {
        let text = "x.load(Ordering::Acquire)";
        assert_eq!(orderings(&source("ring/src/producer.rs", text)).len(), 1);
        assert!(orderings(&source(ORDERINGS, text)).is_empty());
        assert!(orderings(&source("daemon/src/lib.rs", text)).is_empty());
        let relaxed = "x.load(Ordering::Relaxed)";
        assert!(orderings(&source("ring/src/producer.rs", relaxed)).is_empty());
    }

    #[test]
    fn label_needs_a_partner_a_use_and_a_mutant() {
        let lonely = "    \"publish\",\n\n/// ORDERING\\[publish\\]: alone.\n#[inline]\npub(crate) fn publish() {}\n";
        let used = source("ring/src/producer.rs", "ordering::publish()");
        let complaints = labels(&[source(ORDERINGS, lonely), used]);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains("no other label names"));

        let pair = format!(
            "    \"observe\",\n{lonely}\n/// ORDERING\\[observe\\]: pairs with\n/// ORDERING\\[publish\\].\npub(crate) fn observe() {{}}\n"
        );
        let complaints = labels(&[
            source(ORDERINGS, &pair),
            source("ring/src/a.rs", "ordering::publish() ordering::observe()"),
        ]);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains("names ORDERING\\[observe\\]"));
    }
}
