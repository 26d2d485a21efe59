//! The ring through its public interface, over real shared memory and between real processes.
#![cfg(not(loom))]

mod abi;
mod bounds;
mod hostile;
mod killed;
mod naive;
mod room;
mod safe;
mod sharing;
mod support;
