//! A short soak, and its help.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use agentfs_testkit::environment::can_mount;
use serde_json::Value;

/// Seconds that a run may take: many times what it needs on a busy machine.
const LIMIT: &str = "300";

/// Runs the soak, and ends it when it takes too long; returns its standard output.
fn run(arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["--kill-after=10", LIMIT, env!("CARGO_BIN_EXE_agentfs-soak")])
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_late = output.status.code() == Some(124);
    assert!(
        !is_late,
        "a soak {arguments:?} takes over {LIMIT} s: {stderr}"
    );
    assert!(output.status.success(), "a soak {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_change_is_accounted_for_while_daemon_and_listeners_are_killed() {
    if !can_mount() {
        return;
    }
    let text = run(&["--seconds", "20", "--seed", "20", "--json"]);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert!(found["changes"].as_u64().unwrap() > 1000, "{found}");
    assert!(
        found["faults"]["listeners_killed"].as_u64().unwrap() > 0,
        "{found}"
    );
    let accounts = found["accounts"].as_array().unwrap();
    assert_eq!(accounts.len(), 5);
    for account in accounts {
        assert_eq!(account[1]["unaccounted"], 0, "{account}");
        assert!(account[1]["delivered"].as_u64().unwrap() > 0, "{account}");
    }
}

#[test]
fn the_help_has_examples() {
    let help = run(&["--help"]);
    assert!(help.contains("Example"), "{help}");
    assert!(help.contains("  agentfs-soak --seconds"), "{help}");
}
