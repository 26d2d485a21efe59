//! kevent(), by the benchmark of the library's own package, where the kernel is the user-space kqueue
//! of the tests.

use std::process::{Command, Stdio};

use super::{Libraries, Size, row};
use crate::Failure;
use crate::report::Table;

/// Cases of that benchmark, the sides that it compares, and the most that the second should take of
/// the first.
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

    fn is(&self, (what, [first, second], _): &(&str, [&str; 2], f64)) -> bool {
        self.names == [*what, *first, *second]
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
    for goal in &GOALS {
        if !cases.iter().any(|it| it.is(goal)) {
            return Err(format!("the benchmark of kevent() lacks \"{}\"", goal.0).into());
        }
    }
    let rows = cases.iter().flat_map(|case| {
        let [what, a, b] = &case.names;
        let goal = GOALS.iter().find(|it| case.is(it));
        let [first, second] = &case.times;
        let against = Some((a.as_str(), first.as_slice(), goal.map(|it| it.2)));
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
    let mut cases: Vec<Sides> = Vec::new();
    for line in std::str::from_utf8(&output.stdout)?.lines() {
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
