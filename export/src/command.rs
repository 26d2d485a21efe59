//! Formats commands that are printed for people. They work when they are typed as they stand.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Returns a word as a shell reads it. A word that is no text, or has control characters, is written as
/// bash, zsh and ksh read it.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    if let Some(text) = word.to_str()
        && !text.chars().any(char::is_control)
        && let Ok(quoted) = shlex::try_quote(text)
    {
        return quoted.into_owned();
    }
    let mut text = "$'".to_owned();
    for byte in word.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+=:@%, ".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            write!(text, "\\x{byte:02x}").unwrap_or(());
        }
    }
    text.push('\'');
    text
}

/// Returns the command that applies an export to a project.
#[must_use]
pub fn apply_command(export: &Path, project: &Path) -> String {
    let to = if project.as_os_str().is_empty() {
        "DIR".to_owned()
    } else {
        quoted(project)
    };
    format!("agentfs apply {} --to {to}", quoted(export))
}

#[cfg(test)]
mod tests {
    use super::quoted;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let names: [&[u8]; 6] = [
            b"/home/me/project",
            b"/home/me/a project",
            b"it's",
            b"$(rm) `x` \"y\" \\",
            "/home/m\u{e9}".as_bytes(),
            b"-n",
        ];
        for name in names {
            let path = Path::new(OsStr::from_bytes(name));
            let script = format!("printf %s {}", quoted(path));
            let read = Command::new("sh").args(["-c", &script]).output();
            let read = read.expect("a shell").stdout;
            assert_eq!(read, if name == b"-n" { b"-n" } else { name }, "{script}");
        }
        let odd = Path::new(OsStr::from_bytes(b"a\n\xff"));
        assert_eq!(quoted(odd), r"$'a\x0a\xff'");
    }
}
