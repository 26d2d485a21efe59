//! Makes a failing sequence of steps small.

use super::op::{Step, Who};
use crate::shrink::shrink;

/// Leaves out steps as [`shrink`] does, and then makes callers root, as long as `fails` returns
/// true for the rest.
pub fn shrink_steps(steps: Vec<Step>, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut steps = shrink(steps, &mut fails);
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
fn shrinking_steps_keeps_what_is_needed_to_fail() {
    let of = |len| Step {
        by: Who::Alice,
        op: super::op::Op::Read { slot: 0, len },
    };
    let steps: Vec<Step> = (0..100).map(of).collect();
    let needed = [of(17), of(60)];
    let by_len = |steps: &[Step], wanted: Step| steps.iter().any(|step| step.op == wanted.op);
    let small = shrink_steps(steps, |steps| {
        needed.iter().all(|wanted| by_len(steps, *wanted))
    });
    let ops: Vec<_> = small.iter().map(|step| step.op).collect();
    assert_eq!(ops, needed.map(|step| step.op));
    assert!(small.iter().all(|step| step.by == Who::Root));
}
