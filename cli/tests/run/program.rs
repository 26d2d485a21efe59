//! Programs under test, and whether they can be tested here.

pub(crate) use agentfs_testkit::program::Program;

pub(crate) fn can_mount() -> bool {
    agentfs_testkit::environment::can_mount(agentfs_mount::check_device())
}
