//! read() of descriptors that are none of ours, libc's own function and the hook in turns.

use super::{Libraries, Size, row, spawn};
use crate::Failure;
use crate::report::Table;

const KINDS: [&str; 2] = ["zero", "eventfd"];

pub(super) fn table(libraries: &Libraries, size: Size) -> Result<Table, Failure> {
    let mut rows = Vec::new();
    for kind in KINDS {
        let (original, hooked) = measure(libraries, size, kind)?;
        let against = Some(("libc", original.as_slice(), Some(1.01)));
        rows.push(row(&format!("read() of {kind}, libc"), &original, None));
        rows.push(row(&format!("read() of {kind}, hooked"), &hooked, against));
    }
    Ok(Table::new(
        "A descriptor that is not ours",
        "ns per call",
        rows,
    ))
}

/// Returns the nanoseconds of a call, block by block: of libc's function and of the hook.
fn measure(libraries: &Libraries, size: Size, kind: &str) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    if !size.measures {
        return Ok((Vec::new(), Vec::new()));
    }
    let blocks = size.blocks.to_string();
    let words = ["read", kind, blocks.as_str()];
    let program = spawn::start(Some(&libraries.shim), None, &words)?;
    let lines = program.rest();
    let pairs = lines.iter().filter_map(|line| -> Option<(f64, f64)> {
        let (original, hooked) = line.split_once(' ')?;
        Some((original.parse().ok()?, hooked.parse().ok()?))
    });
    let (original, hooked): (Vec<f64>, Vec<f64>) = pairs.unzip();
    if original.is_empty() {
        return Err(format!("nothing was measured of read() of {kind}").into());
    }
    Ok((original, hooked))
}
