//! The one way to run this project's checks.

fn main() {}
