//! Patterns of names and paths, as in a .gitignore file.

use std::fmt;

/// Patterns of names and paths. Without a slash, a pattern matches a name at any depth; with one, a path
/// relative to the lower directory. A slash at the end restricts it to directories. `*` matches any number
/// of characters of a name, `?` one byte, and `**` as a whole component any number of components.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Globs(Vec<Glob>);

/// No pattern at all.
pub(crate) static NONE: Globs = Globs(Vec::new());

/// A pattern that matches nothing that could be left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadGlob(String);

impl fmt::Display for BadGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no pattern of a name or path in the project, like target, *.log or /docs/build/",
            self.0
        )
    }
}

impl std::error::Error for BadGlob {}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Glob {
    components: Vec<Vec<u8>>,
    only_dirs: bool,
}

impl Globs {
    /// Reads patterns.
    ///
    /// # Errors
    ///
    /// The first pattern that is empty or has an empty component, `.` or `..`.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, BadGlob> {
        let read = |pattern: S| Glob::new(pattern.as_ref());
        patterns
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a pattern matches this name in a directory; the directory's path has no leading
    /// slash.
    pub(crate) fn matches(&self, dir: &[u8], name: &[u8], is_dir: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let above = dir.split(|byte| *byte == b'/');
        let above = above.filter(|component| !component.is_empty());
        let path: Vec<&[u8]> = above.chain([name]).collect();
        let matches = |glob: &Glob| {
            let is_any = |component: &Vec<u8>| *component == *b"**";
            let is_one = |component: &Vec<u8>, name: &&[u8]| matches_name(component, name);
            (is_dir || !glob.only_dirs) && matches_all(&glob.components, &path, is_any, is_one)
        };
        self.0.iter().any(matches)
    }
}

impl Glob {
    fn new(pattern: &str) -> Result<Self, BadGlob> {
        let path = pattern.strip_suffix('/').unwrap_or(pattern);
        let only_dirs = path.len() < pattern.len();
        let is_anchored = path.contains('/');
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.split('/').any(|it| matches!(it, "" | "." | "..")) {
            return Err(BadGlob(pattern.to_owned()));
        }
        let anywhere = (!is_anchored).then_some("**");
        let components = anywhere.into_iter().chain(path.split('/'));
        Ok(Self {
            components: components.map(|it| it.as_bytes().to_vec()).collect(),
            only_dirs,
        })
    }
}

fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    matches_all(
        pattern,
        name,
        |byte| *byte == b'*',
        |a, b| *a == b'?' || a == b,
    )
}

/// Matches a sequence with a pattern, in which an element may match any number of elements. When the rest
/// does not match, only the last of those is extended, which suffices: so the time is at most the product
/// of both lengths.
fn matches_all<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    is_one: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut done) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while let Some(element) = text.get(done) {
        match pattern.get(at) {
            Some(any) if is_any(any) => {
                at += 1;
                last_any = Some((at, done));
            }
            Some(one) if is_one(one, element) => {
                at += 1;
                done += 1;
            }
            _ => {
                let Some((after, from)) = last_any else {
                    return false;
                };
                last_any = Some((after, from + 1));
                at = after;
                done = from + 1;
            }
        }
    }
    pattern.iter().skip(at).all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (name, is_dir) = name
            .strip_suffix('>')
            .map_or((name, false), |it| (it, true));
        let globs = Globs::new([pattern]).unwrap();
        globs.matches(dir.as_bytes(), name.as_bytes(), is_dir)
    }

    #[test]
    fn names_match_at_any_depth_and_paths_from_the_root() {
        for (pattern, path, expected) in [
            ("target", "target>", true),
            ("target", "a/b/target", true),
            ("target", "targets", false),
            ("target/", "a/target>", true),
            ("target/", "a/target", false),
            ("/target", "target", true),
            ("/target", "a/target", false),
            ("docs/build", "docs/build>", true),
            ("docs/build", "a/docs/build>", false),
            ("**/docs/build", "a/docs/build>", true),
            ("*.log", "a/b.log", true),
            ("*.log", "a/b.logs", false),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("?.o", "x.o", true),
            ("?.o", "xy.o", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/*/z", "a/b/c/z", false),
            (
                "*a*a*a*a*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} and {path}");
        }
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_refused() {
        for pattern in ["", "/", "//", "a//b", "../a", "a/./b", "."] {
            assert!(matches!(Globs::new([pattern]), Err(BadGlob(it)) if it == pattern));
        }
    }
}
