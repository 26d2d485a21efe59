//! Prints the names that `RING_MUTANT` may have, one a line.

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() {
    for mutant in agentfs_ring::ordering::MUTANTS {
        println!("{mutant}");
    }
}
