//! Checks that platform code lies in one module per platform: there is no `cfg` inside a function.

use super::Source;

/// Returns a complaint for each `cfg` inside a function that is not of a test.
pub(super) fn inside_functions(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        // From here on, the file holds its tests.
        if line.trim() == "#[cfg(test)]"
            && lines
                .get(at + 1)
                .is_some_and(|it| it.ends_with("mod tests {"))
        {
            break;
        }
        let Some(end) = starts_function(line).then(|| end_of(&lines, at)).flatten() else {
            at += 1;
            continue;
        };
        let body = lines.iter().enumerate().take(end).skip(at + 1);
        found.extend(body.filter(|(_, line)| is_cfg(line)).map(|(index, _)| {
            format!(
                "{}:{}: a `cfg` inside a function: give each platform a module (or a constant) with the \
                 same names",
                source.path,
                index + 1
            )
        }));
        at = end;
    }
    found
}

fn is_cfg(line: &str) -> bool {
    let code = line.trim_start();
    !code.starts_with("//") && (code.starts_with("#[cfg") || code.contains(concat!("cfg", "!(")))
}

/// Returns whether a function begins in this line, as rustfmt writes it.
fn starts_function(line: &str) -> bool {
    const BEFORE: [&str; 7] = [
        "pub", "const", "async", "unsafe", "extern", "default", "safe",
    ];
    let code = line.trim_start();
    let Some((before, _)) = code.split_once("fn ") else {
        return false;
    };
    before.split_whitespace().all(|word| {
        let word = word.split('(').next().unwrap_or_default();
        BEFORE.contains(&word) || word.starts_with('"') || word.ends_with(')')
    })
}

/// Returns the line of the closing brace, which rustfmt puts below the first character of the
/// function; returns nothing for a function without lines of its own.
fn end_of(lines: &[&str], start: usize) -> Option<usize> {
    let first = lines.get(start)?;
    let indent = first.len() - first.trim_start().len();
    let is_at_indent = |line: &str| line.len() - line.trim_start().len() == indent;
    if first.ends_with('}') || first.ends_with(';') {
        return None;
    }
    let rest = lines.iter().enumerate().skip(start + 1);
    let mut ends = rest.filter(|(_, line)| is_at_indent(line));
    ends.find(|(_, line)| line.trim() == "}")
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str) -> usize {
        let path = "a.rs".to_owned();
        let text = text.to_owned();
        inside_functions(&Source { path, text }).len()
    }

    #[test]
    fn a_cfg_in_a_body_is_found() {
        assert_eq!(
            complaints("pub(crate) fn f() {\n    #[cfg(unix)]\n    g();\n}\n"),
            1
        );
        assert_eq!(
            complaints(
                "impl A {\n    fn f(\n        a: u8,\n    ) -> bool {\n        cfg!(unix)\n    }\n}\n"
            ),
            1
        );
        assert_eq!(
            complaints(
                "unsafe extern \"C\" fn f() {\n    match a {\n        #[cfg(unix)]\n        b => c,\n    }\n}\n"
            ),
            1
        );
    }

    #[test]
    fn a_cfg_of_an_item_is_none() {
        assert_eq!(
            complaints("#[cfg(unix)]\nfn f() {\n    g();\n}\n#[cfg(unix)]\nmod a;\n"),
            0
        );
        assert_eq!(
            complaints(
                "const A: bool = cfg!(unix);\nimpl B {\n    #[cfg(unix)]\n    fn f() {}\n}\n"
            ),
            0
        );
        assert_eq!(
            complaints("fn f() {\n    // not #[cfg(unix)]\n    g();\n}\n"),
            0
        );
    }

    #[test]
    fn tests_may_have_them() {
        let test = "#[cfg(test)]\nmod tests {\n    fn f() {\n        #[cfg(unix)]\n        g();\n    }\n}\n";
        assert_eq!(complaints(test), 0);
    }
}
