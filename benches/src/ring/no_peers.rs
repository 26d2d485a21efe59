//! In place of `peers`, where this program is built without iceoryx2.

use super::throughput::Run;

pub(super) fn single(_len: usize) -> Option<Run> {
    None
}

pub(super) fn slices(_len: usize) -> Option<Run> {
    None
}
