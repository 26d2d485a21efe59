//! Makes a failing sequence small.

/// Leaves out operations, in halves first and one by one at the end, as long as `fails` returns
/// true for the rest.
pub fn shrink<T: Clone>(mut ops: Vec<T>, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let before = ops.len();
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            drop(fewer.drain(at..(at + chunk).min(ops.len())));
            if fails(&fewer) {
                ops = fewer;
            } else {
                at += chunk;
            }
        }
        if chunk > 1 || ops.len() == before {
            chunk /= 2;
        }
    }
    ops
}

#[test]
fn shrinking_keeps_what_is_needed_to_fail() {
    let needed = [17, 60];
    let small = shrink((0..100).collect(), |ops| {
        needed.iter().all(|op| ops.contains(op))
    });
    assert_eq!(small, needed);
}
