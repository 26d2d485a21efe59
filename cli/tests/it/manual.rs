//! Checks the manual pages and completions that the program writes.

use std::process::{Command, Output};

use tempfile::TempDir;

use agentfs_testkit::daemon::agentfs;

fn said(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn of_agentfs(arguments: &[&str]) -> String {
    let directory = TempDir::new().unwrap();
    let output = agentfs(directory.path()).args(arguments).output().unwrap();
    said(output)
}

/// Returns the commands that the help lists.
fn commands() -> Vec<String> {
    let help = of_agentfs(&["--help"]);
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let (list, _) = rest.split_once("\n\n").unwrap();
    let names = list.lines().filter_map(|line| {
        // A line that continues the one before is indented further.
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn every_command_has_a_page_with_examples() {
    let directory = TempDir::new().unwrap();
    of_agentfs(&["man", directory.path().to_str().unwrap()]);
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    let names = commands.iter().map(|name| format!("agentfs-{name}"));
    for name in names.chain(["agentfs".to_owned()]) {
        let page = std::fs::read_to_string(directory.path().join(format!("{name}.1")));
        let page = page.unwrap_or_else(|error| panic!("{name}.1: {error}"));
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
        assert!(!page.contains(".SH EXTRA"), "{page}");
        assert!(page.contains(".SH EXAMPLES"), "{page}");
    }
    // These commands are for the program itself only.
    assert!(!directory.path().join("agentfs-enter.1").exists());
    assert!(directory.path().join("agentfs-branch-diff.1").exists());
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = TempDir::new().unwrap();
    let script = directory.path().join("agentfs");
    std::fs::write(&script, of_agentfs(&["completions", "bash"])).unwrap();
    let complete = |words: &[&str]| {
        let ask = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _agentfs agentfs "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", ask, "bash"]).arg(&script);
        said(bash.args(words).output().unwrap())
    };
    assert_eq!(complete(&["agentfs", "snap"]), "snapshot\n");
    assert!(complete(&["agentfs", "daemon", "--lo"]).contains("--lower\n"));
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = of_agentfs(&["completions", shell]);
        assert!(script.contains("snapshot"), "{shell}: {script}");
    }
}
