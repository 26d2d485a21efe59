//! Tests of the log, most of them on a simulated disk.

mod damage;
mod full;
mod histories;
mod killed;
mod machine;
mod segments;
mod syncs;
