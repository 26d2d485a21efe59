//! Reads and writes contents of files.

use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{
    FsClose, FsOpen, FsOpened, FsRead, FsUtimens, FsWrite, MAX_DATA, open_flags,
};

use super::{ENOENT, Files, errno_of};
use crate::output::Output;
use crate::output::failure::Failure;

fn open(files: &mut Files, path: &Bytes, flags: u32, mode: u32) -> Result<FsOpened, Failure> {
    files.op(
        path,
        FsOpen {
            path: path.clone(),
            flags,
            mode,
        },
    )
}

fn close(files: &mut Files, path: &Bytes, file: &FsOpened) -> Result<(), Failure> {
    files
        .op(
            path,
            FsClose {
                handle: file.handle,
            },
        )
        .map(|_| ())
}

pub(crate) fn cat(files: &mut Files, path: &Bytes, output: &mut Output) -> Result<(), Failure> {
    let file = open(files, path, open_flags::READ, 0)?;
    let len = u32::try_from(MAX_DATA).unwrap_or(u32::MAX);
    let mut offset = 0;
    let mut all = Vec::new();
    loop {
        let data = files
            .op(
                path,
                FsRead {
                    handle: file.handle,
                    offset,
                    len,
                },
            )?
            .data;
        if data.is_empty() {
            break;
        }
        offset += data.len() as u64;
        if output.is_json() {
            all.extend_from_slice(&data);
        } else {
            output.raw(&data)?;
        }
    }
    close(files, path, &file)?;
    if output.is_json() {
        output.json(&serde_json::json!({ "data": Bytes(all) }))
    } else {
        Ok(())
    }
}

/// Writes standard input to a file.
pub(crate) fn write(
    files: &mut Files,
    path: &Bytes,
    append: bool,
    mode: u32,
    output: &mut Output,
) -> Result<(), Failure> {
    let how = if append {
        open_flags::APPEND
    } else {
        open_flags::TRUNCATE
    };
    let flags = open_flags::WRITE | open_flags::CREATE | how;
    let file = open(files, path, flags, mode)?;
    let start = if append { file.attr.size } else { 0 };
    let mut written = 0;
    let mut stdin = io::stdin().lock();
    loop {
        let mut data = Vec::with_capacity(MAX_DATA);
        let limit = MAX_DATA as u64;
        stdin
            .by_ref()
            .take(limit)
            .read_to_end(&mut data)
            .map_err(Failure::Input)?;
        if data.is_empty() {
            break;
        }
        let offset = start + written;
        let write = FsWrite {
            handle: file.handle,
            offset,
            data: Bytes(data),
        };
        written += u64::from(files.op(path, write)?.len);
    }
    close(files, path, &file)?;
    let done = serde_json::json!({ "written": written });
    files.report("wrote", path, done, output)
}

pub(crate) fn touch(files: &mut Files, path: &Bytes, output: &mut Output) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = Some(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    let set = FsUtimens {
        path: path.clone(),
        atime_ns: now,
        mtime_ns: now,
        follow: true,
    };
    match files.try_op(set) {
        Ok(_) => {}
        Err(error) if errno_of(&error) == ENOENT => {
            let flags = open_flags::WRITE | open_flags::CREATE;
            let file = open(files, path, flags, 0o644)?;
            close(files, path, &file)?;
        }
        Err(error) => return Err(Failure::Call(path.to_string(), error)),
    }
    let now = files.stat(path, true)?;
    files.report("touched", path, now, output)
}
