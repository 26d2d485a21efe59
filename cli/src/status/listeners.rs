//! Shows the programs that watch a mount without the preloaded library.

use serde::Serialize;

use crate::output::Table;

/// A program that watches a mount without the preloaded library.
#[derive(Debug, Serialize)]
pub(crate) struct Listener {
    pub(crate) pid: u32,
    pub(crate) program: String,
    /// The path of the mount.
    pub(crate) mount: String,
    /// How many objects the program watches there; 0 for the mount as a whole.
    pub(crate) watches: usize,
}

/// Returns the listeners as a table for people.
pub(crate) fn table(listeners: &[Listener]) -> Table {
    let mut table = Table::new(&["WITHOUT SHIM", "PROGRAM", "WATCHES", "ON"]);
    for it in listeners {
        table.row([
            it.pid.to_string(),
            it.program.clone(),
            if it.watches == 0 {
                "all".to_owned()
            } else {
                it.watches.to_string()
            },
            it.mount.clone(),
        ]);
    }
    table
}
