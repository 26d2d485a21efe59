//! kevent(), by the benchmark of the library's own package, where the kernel is the user-space kqueue
//! of the tests.

use std::process::{Command, Stdio};

use super::{Libraries, Size, row};
use crate::Failure;
use crate::report::Table;

/// Cases of that benchmark, the sides that it compares at full size, and the most that the second
/// should take of the first.
const GOALS: [(&str, [&str; 2], f64); 3] = [
    ("no watch, nothing ready", ["bare", "hooked"], 1.1),
    ("no watch, one change", ["bare", "hooked"], 1.1),
    ("a posted event", ["10 knotes", "10000 knotes"], 1.2),
];

/// Two sides of one case.
struct Sides {
    /// The case and its sides.
    names: [String; 3],
    times: [Vec<f64>; 2],
}

impl Sides {
    fn new(names: [String; 3]) -> Self {
        Self {
            names,
            times: Default::default(),
        }
    }

    /// Returns the most that the second side should take of the first.
    fn most(&self) -> Option<f64> {
        let found = GOALS.iter().find(|(what, ..)| self.names[0] == *what);
        found.map(|(.., most)| *most)
    }
}

pub(super) fn table(_: &Libraries, size: Size) -> Result<Table, Failure> {
    let cases = if size.measures {
        measure(size)?
    } else {
        let listed = GOALS.map(|(what, [first, second], _)| [what, first, second]);
        listed
            .map(|names| Sides::new(names.map(str::to_owned)))
            .into()
    };
    if !size.quick {
        all_are_there(&cases)?;
    }
    let rows = cases.iter().flat_map(|case| {
        let [what, a, b] = &case.names;
        let [first, second] = &case.times;
        let against = Some((a.as_str(), first.as_slice(), case.most()));
        [
            row(&format!("{what}, {a}"), first, None),
            row(&format!("{what}, {b}"), second, against),
        ]
    });
    Ok(Table::new(
        "kevent() on a user-space kqueue",
        "ns per call",
        rows,
    ))
}

/// Fails when the benchmark lacks a case that has a goal.
fn all_are_there(cases: &[Sides]) -> Result<(), Failure> {
    for (what, [first, second], _) in &GOALS {
        let names = [*what, *first, *second];
        if !cases.iter().any(|it| it.names == names) {
            return Err(format!("the benchmark of kevent() lacks {names:?}").into());
        }
    }
    Ok(())
}

fn measure(size: Size) -> Result<Vec<Sides>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["bench", "--quiet", "--package", "agentfs-interpose-shim"])
        .args(["--bench", "kevent", "--", "--raw"])
        .args(size.quick.then_some("--quick"));
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the benchmark of kevent() failed".into());
    }
    parsed(std::str::from_utf8(&output.stdout)?)
}

/// Reads lines of a case, its two sides, and the nanoseconds of a call of each.
fn parsed(text: &str) -> Result<Vec<Sides>, Failure> {
    let mut cases: Vec<Sides> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut field = || fields.next().ok_or("a line of the benchmark of kevent()");
        let names = [field()?, field()?, field()?];
        let times: [f64; 2] = [field()?.parse()?, field()?.parse()?];
        if cases.last().is_none_or(|it| it.names != names) {
            cases.push(Sides::new(names));
        }
        let all = cases.last_mut().into_iter().flat_map(|it| &mut it.times);
        all.zip(times).for_each(|(all, time)| all.push(time));
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_case_are_its_rounds() {
        let text = "no watch, one change\tbare\thooked\t4\t5\n\
                    no watch, one change\tbare\thooked\t6\t7\n\
                    a posted event\t10 knotes\t1000 knotes\t8\t9\n";
        let cases = parsed(text).unwrap();
        let times: Vec<_> = cases.iter().map(|it| it.times.clone()).collect();
        assert_eq!(
            times,
            [[vec![4.0, 6.0], vec![5.0, 7.0]], [vec![8.0], vec![9.0]]]
        );
        // With few repetitions there are fewer knotes.
        assert_eq!(cases[1].most(), Some(1.2));
        assert!(all_are_there(&cases).is_err());
    }
}
