//! A hundred thousand changes.

use agentfs_testkit::environment::can_mount;
use serde_json::Value;

use crate::support::measure;

/// The run of one kind.
fn of<'a>(samples: &'a Value, case: &str) -> &'a Value {
    let samples = samples.as_array().unwrap();
    samples.iter().find(|it| it["case"] == case).unwrap()
}

fn number(sample: &Value, name: &str) -> u64 {
    sample[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} of {sample}"))
}

#[test]
fn a_hundred_thousand_changes_of_one_file_wake_a_working_program_once() {
    if !can_mount() {
        return;
    }
    let samples = measure(&["burst", "--files", "1", "--reader", "late", "--rounds", "1"]);
    for case in ["inotify", "kqueue", "native"] {
        let sample = of(&samples, case);
        let tally = &sample["tallies"][0];
        // One for the file and, if it came when the queue was empty, one for the end.
        assert!(number(sample, "doorbells") <= 2, "{sample}");
        assert!((1..=2).contains(&number(tally, "events")), "{sample}");
        assert_eq!(number(tally, "overflows"), 0, "{sample}");
        assert!(number(sample, "coalesced") >= 99_998, "{sample}");
        // Asleep in poll(2), and in the wait for the end of the burst.
        let slept = tally["usage"]["slept"].as_i64().unwrap();
        assert!(slept <= 10, "{sample}");
    }
}

#[test]
fn of_a_hundred_thousand_files_none_goes_unheard() {
    if !can_mount() {
        return;
    }
    for reader in ["asleep", "late"] {
        let arguments = [
            "burst", "--files", "100000", "--rounds", "1", "--reader", reader,
        ];
        let samples = measure(&[&arguments[..], &["--watchers", "2"]].concat());
        for case in ["inotify", "native"] {
            let sample = of(&samples, case);
            for tally in sample["tallies"].as_array().unwrap() {
                assert_eq!(number(tally, "files"), 100_000, "{reader}: {sample}");
                assert_eq!(number(tally, "overflows"), 0, "{reader}: {sample}");
            }
        }
        if reader == "late" {
            // What it is for: the kernel's queue is full long before.
            let sample = of(&samples, "kernel");
            assert!(number(&sample["tallies"][0], "files") < 100_000, "{sample}");
        }
    }
}
