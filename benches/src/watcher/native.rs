//! A subscriber by the client library.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agentfs_client::{Deadline, Subscription, SubscriptionOptions};
use agentfs_proto::record::Kind;

use super::Heard;
use crate::Failure;

#[derive(Debug)]
pub(crate) struct NativeReader(Box<Subscription>);

impl NativeReader {
    /// Subscribes to trees.
    pub(crate) fn open(socket: &Path, roots: &[&Path]) -> Result<Self, Failure> {
        let (first, others) = roots.split_first().ok_or("no tree to subscribe to")?;
        let options = SubscriptionOptions::new()
            .program("agentfs-bench")
            .socket(socket)
            .path(*first);
        let options = others
            .iter()
            .fold(options, |options, root| options.and_path(*root));
        Ok(Self(Box::new(options.open()?)))
    }

    /// Sleeps unless a record is there by now.
    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        Ok(self.0.wait(Deadline::NEVER).map(drop)?)
    }

    /// Takes what is there by now.
    pub(crate) fn take(&mut self, hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
        Ok(self.0.drain(|event| {
            if event.head().kind == Kind::OVERFLOW {
                hear(Heard::Overflow);
            }
            let name = Path::new(std::ffi::OsStr::from_bytes(event.path())).file_name();
            if let Some(heard) = name.and_then(|it| Heard::named(it.as_bytes())) {
                hear(heard);
            }
        })?)
    }
}
