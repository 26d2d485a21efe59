//! Changes files through the control socket.

use agentfs_client::{CallError, Client};
use agentfs_proto::message::{
    FsClose, FsMkdir, FsOpen, FsRename, FsRmdir, FsUnlink, FsWrite, open_flags,
};

use crate::child::soon;

pub fn mkdir(client: &mut Client, path: &str) -> Result<(), CallError> {
    client
        .fs(
            "",
            FsMkdir {
                path: path.into(),
                mode: 0o755,
            },
            soon(),
        )
        .map(drop)
}

pub fn rmdir(client: &mut Client, path: &str) -> Result<(), CallError> {
    client
        .fs("", FsRmdir { path: path.into() }, soon())
        .map(drop)
}

pub fn unlink(client: &mut Client, path: &str) -> Result<(), CallError> {
    client
        .fs("", FsUnlink { path: path.into() }, soon())
        .map(drop)
}

pub fn rename(client: &mut Client, from: &str, to: &str) -> Result<(), CallError> {
    client
        .fs(
            "",
            FsRename {
                from: from.into(),
                to: to.into(),
                flags: 0,
            },
            soon(),
        )
        .map(drop)
}

/// Makes a file, or writes over one.
pub fn write(client: &mut Client, path: &str, data: &[u8]) -> Result<(), CallError> {
    let flags = open_flags::WRITE | open_flags::CREATE;
    let open = FsOpen {
        path: path.into(),
        flags,
        mode: 0o644,
    };
    let handle = client.fs("", open, soon())?.handle;
    client.fs(
        "",
        FsWrite {
            handle,
            offset: 0,
            data: data.into(),
        },
        soon(),
    )?;
    client.fs("", FsClose { handle }, soon()).map(drop)
}
