//! Checks the layers: within a crate a folder imports only those below it, so nothing runs in a
//! circle.

use std::collections::BTreeSet;

use super::Source;

/// The crates whose folders are layers: the sources, and the folders and files right in them from
/// the lowest to the highest. Each may import itself and what stands before it.
const LAYERED: &[(&str, &[&str])] = &[
    (
        "fscore/src",
        &[
            "sync", "model", "disk", "log", "lower", "store", "branch", "ops", "diff",
        ],
    ),
    (
        "daemon/src",
        &[
            "base",
            "lower",
            "mounts",
            "shared",
            "requests",
            "session",
            "event_loop",
            "daemon",
        ],
    ),
];

/// Reports every import that runs up, in all crates that have layers.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    LAYERED
        .iter()
        .flat_map(|(src, layers)| upward_imports(src, layers, sources))
        .collect()
}

/// Reports each path in the code below `src` that leads from a layer to a higher one or past all
/// layers, with its file and line. The files right in `src` that are no layer are not looked at if
/// they are the root of a crate; test modules never are.
fn upward_imports(src: &str, layers: &[&str], sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let mut present = BTreeSet::new();
    for source in sources {
        let Some(home) = module_of(src, &source.path) else {
            continue;
        };
        let Some(layer) = home.first() else {
            continue;
        };
        present.insert(layer.clone());
        let Some(own) = layers.iter().position(|it| it == layer) else {
            found.push(format!(
                "{}: {layer} is in no layer: give it a place in xtask/src/tidy/layers.rs",
                source.path
            ));
            continue;
        };
        for Import { line, name } in imports(&source.text, &home) {
            let place = format!("{}:{line}", source.path);
            match layers.iter().position(|it| *it == name) {
                Some(other) if other <= own => {}
                Some(_) => found.push(format!(
                    "{place}: {layer} imports {name}, which lies above it ({}): move down what \
                     both need, or have the caller pass it",
                    layers.join(" <- ")
                )),
                None => found.push(format!(
                    "{place}: crate::{name} is in no layer: name the module that defines it"
                )),
            }
        }
    }
    let is_missing = |layer: &&&str| !present.contains(**layer);
    found.extend(layers.iter().filter(is_missing).map(|layer| {
        format!("{src}/{layer}: a layer in xtask/src/tidy/layers.rs, but not there: drop it")
    }));
    found
}

/// Returns the path of a file's module, if the file lies below `src`; empty for the root of a crate.
fn module_of(src: &str, path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix(src)?.strip_prefix('/')?;
    let path = path.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if matches!(path, "lib" | "main") {
        return Some(Vec::new());
    }
    let module: Vec<String> = path.split('/').map(str::to_owned).collect();
    let is_test = module.iter().any(|name| name == "tests");
    (!is_test).then_some(module)
}

/// A path that begins at the root of the crate.
#[derive(PartialEq, Eq, Debug)]
struct Import {
    line: usize,
    /// The first name of the path.
    name: String,
}

/// Finds the paths that begin at the root of the crate, by `crate::` or by enough `super::`.
fn imports(text: &str, home: &[String]) -> Vec<Import> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    // This holds, for each open brace, whether it is that of a module.
    let mut open: Vec<bool> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        match token.text {
            "#" if is_test_attribute(&tokens[at..]) => {
                at = end_of_item(&tokens, at);
                continue;
            }
            "{" => open.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => drop(open.pop()),
            "crate" if next(1) == "::" => {
                names(&tokens[at + 2..], &mut found);
                at += 1;
            }
            "super" if next(1) == "::" => {
                let mut supers = 1;
                while next(2 * supers) == "super" && next(2 * supers + 1) == "::" {
                    supers += 1;
                }
                let depth = home.len() + open.iter().filter(|is_module| **is_module).count();
                if supers == depth {
                    names(&tokens[at + 2 * supers..], &mut found);
                }
                at += 2 * supers - 1;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Records the first name of a path, or the first name of each path in a group.
fn names(tokens: &[Token<'_>], found: &mut Vec<Import>) {
    let mut note = |token: &Token<'_>| {
        found.push(Import {
            line: token.line,
            name: token.text.to_owned(),
        });
    };
    let Some((first, group)) = tokens.split_first() else {
        return;
    };
    if first.text != "{" {
        return note(first);
    }
    let mut depth = 1;
    let mut is_first = true;
    for token in group {
        match token.text {
            "{" => depth += 1,
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            "," if depth == 1 => is_first = true,
            _ if is_first => {
                note(token);
                is_first = false;
            }
            _ => {}
        }
    }
}

/// Returns whether an attribute follows that compiles its item for tests only.
fn is_test_attribute(tokens: &[Token<'_>]) -> bool {
    let begins_with = |words: &[&str]| {
        tokens.len() >= words.len() && tokens.iter().zip(words).all(|(it, word)| it.text == *word)
    };
    begins_with(&["#", "[", "cfg", "(", "test", ")"])
        || begins_with(&["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// Returns the position after the item whose first attribute is at `at`.
fn end_of_item(tokens: &[Token<'_>], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut is_use = false;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "use" if depth == 0 => is_use = true,
            "{" | "[" | "(" => depth += 1,
            "}" if depth == 1 && !is_use => return index + 1,
            "}" | "]" | ")" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A word, `::`, or one other character of the code.
#[derive(Debug)]
struct Token<'t> {
    text: &'t str,
    line: usize,
}

/// Splits code into tokens, without comments, texts and characters.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = match skipped(rest) {
            0 => {
                let length = token_length(rest, first);
                if !first.is_whitespace() {
                    let text = &rest[..length];
                    all.push(Token { text, line });
                }
                length
            }
            length => length,
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    all
}

fn token_length(rest: &str, first: char) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if is_word(first) {
        rest.find(|c| !is_word(c)).unwrap_or(rest.len())
    } else if rest.starts_with("::") {
        2
    } else {
        first.len_utf8()
    }
}

/// Returns the length of the comment, text or character that `rest` begins with; 0 if it is none.
fn skipped(rest: &str) -> usize {
    let until = |end: &str, from: usize| {
        let found = rest[from..].find(end);
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until("*/", 2);
    }
    if let Some(raw) = raw_text(rest) {
        let (from, end) = raw;
        return until(&end, from);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    // The quote begins a character, not a lifetime.
    let mut after = rest.chars().skip(1);
    if rest.starts_with('\'') && (after.next() == Some('\\') || after.next() == Some('\'')) {
        return quoted(rest, '\'');
    }
    0
}

/// Returns where the content of a raw text begins, and what ends it.
fn raw_text(rest: &str) -> Option<(usize, String)> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then(|| {
        let from = rest.len() - after.len() + hashes + 1;
        (from, format!("\"{}", "#".repeat(hashes)))
    })
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: &[&str] = &["low", "middle", "high"];

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let mut all: Vec<Source> = LAYERS
            .iter()
            .map(|layer| source(&format!("a/src/{layer}/mod.rs"), ""))
            .collect();
        all.push(source(path, text));
        upward_imports("a/src", LAYERS, &all)
    }

    #[test]
    fn import_of_a_higher_layer_is_found_with_its_line() {
        let text = "use crate::low::A;\n\nuse crate::high::B;\n";
        let complaints = found("a/src/middle/x.rs", text);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("a/src/middle/x.rs:3: middle imports high"));
        assert!(found("a/src/high/x.rs", text).is_empty());
    }

    #[test]
    fn paths_in_groups_and_in_code_are_found() {
        for text in [
            "use crate::{low::A, high::{B, low}};",
            "use crate::{high};",
            "fn f() { crate::high::g(); }",
            "fn f() -> Vec<crate::high::G> { Vec::new() }",
        ] {
            assert_eq!(found("a/src/middle/mod.rs", text).len(), 1, "{text}");
        }
        let below = "use crate::{low::{high, A}, middle};";
        assert!(found("a/src/middle/mod.rs", below).is_empty());
    }

    #[test]
    fn super_counts_from_the_module_that_names_it() {
        assert_eq!(found("a/src/low/mod.rs", "use super::high::A;").len(), 1);
        assert!(found("a/src/low/x.rs", "use super::high::A;").is_empty());
        let twice = "use super::super::high::A;";
        assert_eq!(found("a/src/low/x.rs", twice).len(), 1);
        let inline = "mod y { use super::high::A; }";
        assert!(found("a/src/low/mod.rs", inline).is_empty());
        let inline = "mod y { use super::super::high::A; }";
        assert_eq!(found("a/src/low/mod.rs", inline).len(), 1);
    }

    #[test]
    fn comments_texts_and_tests_are_not_imports() {
        for text in [
            "//! See crate::high.\n/// [`A`](crate::high::A)\nfn f() {}",
            "/* use crate::high::A; */",
            "const A: &str = \"crate::high\\\"::A\";",
            "const A: &str = r#\"crate::high\"::A\"#;",
            "#[cfg(test)]\nmod tests { use crate::high::A; }",
            "#[cfg(test)]\nuse crate::{high::A};\nuse crate::low::A;",
        ] {
            assert!(found("a/src/low/x.rs", text).is_empty(), "{text}");
        }
        let after = "fn f<'a>(c: char) { c == '\"' || c == '\\'' }\n#[cfg(test)]\nmod tests {}\nuse crate::high::A;";
        let complaints = found("a/src/low/x.rs", after);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("a/src/low/x.rs:4:"));
    }

    #[test]
    fn what_is_in_no_layer_is_named() {
        assert_eq!(found("a/src/other.rs", "").len(), 1);
        assert_eq!(found("a/src/low/x.rs", "use crate::Root;").len(), 1);
        assert!(found("a/src/lib.rs", "use crate::high::A;").is_empty());
        let missing = upward_imports("b/src", &["low"], &[]);
        assert_eq!(missing.len(), 1, "{missing:?}");
    }
}
