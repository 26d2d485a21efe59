//! Benchmarks of every stage of the flow.
