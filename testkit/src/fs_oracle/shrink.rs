//! Makes a failing sequence small.

use crate::op::{Step, Who};

/// Leaves out steps, in halves first and one by one at the end, and makes callers root, as long as
/// `fails` says that the rest still fails.
pub(crate) fn shrink(mut steps: Vec<Step>, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let before = steps.len();
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            drop(fewer.drain(at..(at + chunk).min(steps.len())));
            if fails(&fewer) {
                steps = fewer;
            } else {
                at += chunk;
            }
        }
        if chunk > 1 || steps.len() == before {
            chunk /= 2;
        }
    }
    for at in 0..steps.len() {
        let mut plain = steps.clone();
        plain[at].by = Who::Root;
        if fails(&plain) {
            steps = plain;
        }
    }
    steps
}

#[test]
fn shrinking_keeps_what_is_needed_to_fail() {
    let of = |len| Step {
        by: Who::Alice,
        op: crate::op::Op::Read { slot: 0, len },
    };
    let steps: Vec<Step> = (0..100).map(of).collect();
    let needed = [of(17), of(60)];
    let by_len = |steps: &[Step], wanted: Step| steps.iter().any(|step| step.op == wanted.op);
    let small = shrink(steps, |steps| {
        needed.iter().all(|wanted| by_len(steps, *wanted))
    });
    let ops: Vec<_> = small.iter().map(|step| step.op).collect();
    assert_eq!(ops, needed.map(|step| step.op));
    assert!(small.iter().all(|step| step.by == Who::Root));
}
