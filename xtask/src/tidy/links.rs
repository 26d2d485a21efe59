//! Checks what the documents refer to: the file that a relative link names is there and has the
//! heading, and so is every source file that a document names in code quotes.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::Source;

/// A link as a document has it, without its text.
#[derive(Debug, PartialEq)]
struct Link {
    line: usize,
    target: String,
}

/// Reports every relative link and every named source file that is not there.
pub(super) fn links(documents: &[Source]) -> Vec<String> {
    let headings: HashMap<&str, HashSet<String>> = documents
        .iter()
        .map(|document| (document.path.as_str(), anchors(&document.text)))
        .collect();
    let exists = |path: &Path| path.exists();
    documents
        .iter()
        .flat_map(|document| dead(document, &headings, &exists))
        .collect()
}

/// Reports what one document refers to and is not there.
fn dead(
    document: &Source,
    headings: &HashMap<&str, HashSet<String>>,
    exists: &dyn Fn(&Path) -> bool,
) -> Vec<String> {
    let own = Path::new(&document.path);
    let complaint = |line: usize, text: String| format!("{}:{line}: {text}", document.path);
    let mut found = Vec::new();
    for Link { line, target } in links_of(&document.text) {
        let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let path = if file.is_empty() {
            own.to_owned()
        } else {
            normal(&own.parent().unwrap_or(Path::new("")).join(file))
        };
        if !exists(&path) {
            let text = format!(
                "the link to {target} leads to {}, which is not there",
                path.display()
            );
            found.push(complaint(line, text));
        } else if !anchor.is_empty()
            && let Some(known) = headings.get(path.to_string_lossy().as_ref())
            && !known.contains(anchor)
        {
            let text = format!("{} has no heading for #{anchor}", path.display());
            found.push(complaint(line, text));
        }
    }
    for Link { line, target } in named_files(&document.text) {
        let path = Path::new(&target);
        // A section about one crate names files from that crate's folder.
        let is_from_top = path.iter().next().is_some_and(|it| exists(Path::new(it)));
        if is_from_top && !exists(path) {
            found.push(complaint(line, format!("{target} is not there")));
        }
    }
    found
}

/// Returns the source files and documents in code quotes, named from the top of the tree.
fn named_files(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    for (line, text) in prose(text) {
        let quoted = text.split('`').skip(1).step_by(2);
        let files =
            quoted.filter(|it| it.contains('/') && is_plain(it) && is_source(Path::new(it)));
        found.extend(files.map(|target| Link {
            line,
            target: target.to_owned(),
        }));
    }
    found
}

/// Returns whether the quoted text is one path, and neither a pattern nor a command.
fn is_plain(path: &str) -> bool {
    let is_usual = |letter: char| letter.is_alphanumeric() || "/._-".contains(letter);
    path.starts_with(char::is_alphanumeric) && path.chars().all(is_usual)
}

fn is_source(path: &Path) -> bool {
    path.extension()
        .is_some_and(|it| it == "rs" || it == "md" || it == "toml")
}

/// Returns every relative link outside of code.
fn links_of(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    for (line, text) in prose(text) {
        let text = without_code(text);
        let inline = text.split("](").skip(1).filter_map(|rest| {
            let end = rest.find([')', ' '])?;
            Some(&rest[..end])
        });
        let reference = text
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "));
        let targets = inline.chain(reference.map(|(_, target)| target.trim()));
        found.extend(targets.filter(|it| is_relative(it)).map(|target| Link {
            line,
            target: target.to_owned(),
        }));
    }
    found
}

fn is_relative(target: &str) -> bool {
    !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:")
}

/// Returns the lines outside of fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// Returns the line without what is in code quotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Returns the names by which a document's headings are linked, as GitHub makes them.
fn anchors(text: &str) -> HashSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut all = HashSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug = slug(heading.trim());
        let count = seen.entry(slug.clone()).or_default();
        all.insert(match *count {
            0 => slug,
            count => format!("{slug}-{count}"),
        });
        *count += 1;
    }
    all
}

fn slug(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            _ if letter.is_alphanumeric() => Some(letter.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Returns the path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        let is_gone = part == Component::CurDir || (part == Component::ParentDir && parts.pop());
        if !is_gone {
            parts.push(part);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Reports what is wrong with these documents, when they and `docs/flow.svg` are all there is.
    fn complaints(documents: &[Source]) -> Vec<String> {
        let headings = documents
            .iter()
            .map(|it| (it.path.as_str(), anchors(&it.text)))
            .collect();
        let exists = |path: &Path| {
            ["docs", "docs/flow.svg"].map(Path::new).contains(&path)
                || documents.iter().any(|it| Path::new(&it.path) == path)
        };
        documents
            .iter()
            .flat_map(|it| dead(it, &headings, &exists))
            .collect()
    }

    #[test]
    fn links_to_files_and_headings_that_are_there_pass() {
        let readme = "![flow](docs/flow.svg) and [limits](docs/a.md#the-limits-of-run)\n\
                      [b]: docs/a.md\n[web](https://example.com/none)";
        let a = "# A\n## The limits of `run`\n[up](../README.md), [here](#a)";
        let found = complaints(&[document("README.md", readme), document("docs/a.md", a)]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn dead_link_is_named_with_its_line() {
        let found = complaints(&[document("docs/a.md", "# A\n\n[x](b.md) [y](#c)")]);
        assert_eq!(
            found,
            [
                "docs/a.md:3: the link to b.md leads to docs/b.md, which is not there",
                "docs/a.md:3: docs/a.md has no heading for #c",
            ]
        );
    }

    #[test]
    fn code_has_no_links_and_no_headings() {
        let text = "`[x](none.md)`\n```\n# Heading\n[x](none.md)\n```\n[y](#heading)";
        let found = complaints(&[document("a.md", text)]);
        assert_eq!(found, ["a.md:6: a.md has no heading for #heading"]);
    }

    #[test]
    fn named_source_file_must_be_there() {
        let text = "`docs/a.md`, `docs/{a,b}.md`, `ops/a.rs`, `mod.rs: f`\n`docs/gone.md`";
        let found = complaints(&[document("docs/a.md", text)]);
        assert_eq!(found, ["docs/a.md:2: docs/gone.md is not there"]);
    }

    #[test]
    fn equal_headings_are_numbered() {
        let all = anchors("# Limits\n## Limits\n#no heading");
        assert_eq!(
            all,
            HashSet::from(["limits".to_owned(), "limits-1".to_owned()])
        );
    }
}
