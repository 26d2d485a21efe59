//! The program, and what it found.

use std::process::Command;

use serde_json::Value;

/// Seconds that a program may take: many times what it needs on a busy machine.
const LIMIT: &str = "300";

/// Runs the program; its standard output.
pub(crate) fn run(arguments: &[&str]) -> String {
    said(env!("CARGO_BIN_EXE_agentfs-bench"), arguments)
}

/// Runs a program, and ends it when it takes too long; its standard output.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["--kill-after=10", LIMIT, program])
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_late = output.status.code() == Some(124);
    assert!(
        !is_late,
        "{program} {arguments:?} takes over {LIMIT} s: {stderr}"
    );
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs one part; its raw numbers.
pub(crate) fn measure(arguments: &[&str]) -> Value {
    let text = run(&[arguments, &["--json"]].concat());
    let found: Value = serde_json::from_str(&text).unwrap();
    found["data"]["parts"][0]["raw"].clone()
}
