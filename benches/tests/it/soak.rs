//! Random load with faults.

use crate::support::{can_mount, measure};

#[test]
fn every_change_is_accounted_for_while_daemon_and_listeners_are_killed() {
    if !can_mount() {
        return;
    }
    let found = measure(&["soak", "--seconds", "20", "--seed", "20"]);
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
