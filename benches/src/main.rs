//! `agentfs-bench`: see the library of this package.

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: agentfs_bench::counting_allocator::Counting =
    agentfs_bench::counting_allocator::Counting;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    agentfs_bench::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("the benchmarks compare with what only Linux has: its inotify, tmpfs and overlays")
}
