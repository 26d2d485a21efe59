//! `agentfs fs`: files of a branch without a mount.

mod args;
mod file;
mod tree;

use std::fmt;

use agentfs_client::{CallError, Deadline};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{
    Attr, FsCall, FsChmod, FsChown, FsDone, FsGetXattr, FsLink, FsListXattr, FsMkdir, FsMknod,
    FsReadLink, FsRemoveXattr, FsRename, FsRmdir, FsSetXattr, FsStat, FsSymlink, FsTruncate,
    rename_flags,
};
use clap::Args;
use serde::Serialize;

use self::args::{FsCommand, NameCommand, XattrCommand, absolute};
use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, mode_text, time_text};
use crate::project::connection::{DaemonConnection, PATIENCE};

pub(crate) use self::args::path_argument;

/// Read and change files of a branch without a mount
///
/// Use it from scripts, from outside of a run, and where nothing can be mounted. Paths begin at the root
/// of the branch.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs fs ls -l /src
  echo hello | agentfs fs write /src/greeting
  agentfs fs cat /src/greeting --branch attempt-1
  agentfs fs mv /src/a /src/b
  agentfs fs stat /src --json
  agentfs fs xattr set /src/b user.note checked")]
pub(crate) struct FsArgs {
    /// The branch, instead of the one of the run or the mount that you are in,
    /// or else main
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    branch: String,
    #[command(subcommand)]
    command: FsCommand,
}

/// A connection to the daemon, and the branch that is worked in.
#[derive(Debug)]
pub(crate) struct Files {
    connection: DaemonConnection,
    branch: String,
}

impl Files {
    fn open(common: &Common, args: &FsArgs) -> Result<Self, Failure> {
        let branch = args.branch.clone();
        let connection = if args.command.only_looks() {
            DaemonConnection::open_to_look(common, &branch)?
        } else {
            DaemonConnection::open(common, &branch)?
        };
        Ok(Self { connection, branch })
    }

    /// Carries out an operation.
    pub(crate) fn try_op<C: FsCall>(&mut self, op: C) -> Result<C::Answer, CallError> {
        self.connection
            .client
            .fs(&self.branch, op, Deadline::after(PATIENCE))
    }

    /// Carries out an operation. A failure names `about`.
    pub(crate) fn op<C: FsCall>(&mut self, about: &Bytes, op: C) -> Result<C::Answer, Failure> {
        self.try_op(op)
            .map_err(|error| Failure::Call(about.to_string(), error))
    }

    pub(crate) fn stat(&mut self, path: &Bytes, follow: bool) -> Result<Attr, Failure> {
        self.op(
            path,
            FsStat {
                path: path.clone(),
                follow,
            },
        )
    }

    /// Carries out an operation that returns nothing, and reports it.
    fn change(
        &mut self,
        about: &Bytes,
        op: impl FsCall<Answer = FsDone>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let done = self.op(about, op)?;
        self.report("changed", about, done, output)
    }

    /// Reports what was done, and in which branch of which project.
    pub(crate) fn report(
        &self,
        what: &str,
        about: impl fmt::Display,
        done: impl Serialize,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&self.connection.with_project(done));
        }
        let in_branch = self.connection.in_branch(&self.branch);
        output.line(format_args!("{what} {about}{in_branch}"))
    }
}

/// The numbers of errors in the protocol.
pub(crate) const ENOENT: u32 = 2;
pub(crate) const EEXIST: u32 = 17;

/// Returns the `errno` of a refused operation, or 0.
pub(crate) fn errno_of(error: &CallError) -> u32 {
    if let CallError::Refused(refused) = error {
        refused.errno
    } else {
        0
    }
}

pub(crate) fn run(common: &Common, args: FsArgs, output: &mut Output) -> Result<(), Failure> {
    let mut files = Files::open(common, &args)?;
    let files = &mut files;
    match args.command {
        FsCommand::Ls { path, long } => tree::list(files, &path, long, output),
        FsCommand::Cat { path } => file::cat(files, &path, output),
        FsCommand::Write { path, append, mode } => file::write(files, &path, append, mode, output),
        FsCommand::Touch { path } => file::touch(files, &path, output),
        FsCommand::Truncate { path, size } => {
            files.change(&path.clone(), FsTruncate { path, size }, output)
        }
        FsCommand::Stat { path, follow } => {
            let attr = files.stat(&path, follow)?;
            if output.is_json() {
                output.json(&attr)
            } else {
                output.line(stat_text(&path, &attr))
            }
        }
        FsCommand::Chmod { mode, path } => {
            files.change(&path.clone(), FsChmod { path, mode }, output)
        }
        FsCommand::Chown {
            owner: (uid, gid),
            path,
        } => files.change(
            &path.clone(),
            FsChown {
                path,
                uid,
                gid,
                follow: true,
            },
            output,
        ),
        FsCommand::Xattr { command } => xattr(files, command, output),
        FsCommand::Names(command) => names(files, command, output),
    }
}

/// Carries out the commands that change names.
fn names(files: &mut Files, command: NameCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        NameCommand::Mkdir {
            path,
            parents: true,
            mode,
        } => tree::make_all(files, &path, mode, output),
        NameCommand::Mkdir {
            path,
            parents: false,
            mode,
        } => files.change(&path.clone(), FsMkdir { path, mode }, output),
        NameCommand::Rmdir { path } => files.change(&path.clone(), FsRmdir { path }, output),
        NameCommand::Rm {
            paths,
            recursive,
            force,
        } => tree::remove(files, &paths, recursive, force, output),
        NameCommand::Mv {
            from,
            to,
            no_replace,
            exchange,
        } => {
            let no_replace = if no_replace {
                rename_flags::NO_REPLACE
            } else {
                0
            };
            let exchange = if exchange { rename_flags::EXCHANGE } else { 0 };
            let rename = FsRename {
                from: from.clone(),
                to,
                flags: no_replace | exchange,
            };
            files.change(&from, rename, output)
        }
        NameCommand::Ln {
            target,
            link,
            symbolic: true,
        } => {
            let path = link;
            let target = target.as_str().into();
            files.change(&path.clone(), FsSymlink { path, target }, output)
        }
        NameCommand::Ln {
            target,
            link,
            symbolic: false,
        } => {
            let to = link;
            files.change(
                &to.clone(),
                FsLink {
                    from: absolute(&target),
                    to,
                },
                output,
            )
        }
        NameCommand::Mkfifo { path } => files.change(
            &path.clone(),
            FsMknod {
                path,
                mode: 0o010_644,
                rdev: 0,
            },
            output,
        ),
        NameCommand::Readlink { path } => {
            let link = files.op(&path.clone(), FsReadLink { path })?;
            if output.is_json() {
                output.json(&link)
            } else {
                output.line(link.target)
            }
        }
    }
}

fn xattr(files: &mut Files, command: XattrCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        XattrCommand::Get { path, name } => {
            let name = name.as_str().into();
            let xattr = files.op(&path.clone(), FsGetXattr { path, name })?;
            if output.is_json() {
                return output.json(&xattr);
            }
            output.raw(&xattr.value)?;
            output.raw(b"\n")
        }
        XattrCommand::Set { path, name, value } => {
            let (name, value) = (name.as_str().into(), value.as_str().into());
            files.change(
                &path.clone(),
                FsSetXattr {
                    path,
                    name,
                    value,
                    flags: 0,
                },
                output,
            )
        }
        XattrCommand::List { path } => {
            let xattrs = files.op(&path.clone(), FsListXattr { path })?;
            if output.is_json() {
                return output.json(&xattrs);
            }
            xattrs.names.iter().try_for_each(|name| output.line(name))
        }
        XattrCommand::Rm { path, name } => {
            let name = name.as_str().into();
            files.change(&path.clone(), FsRemoveXattr { path, name }, output)
        }
    }
}

fn stat_text(path: &Bytes, attr: &Attr) -> String {
    let Attr {
        ino,
        nlink,
        uid,
        gid,
        size,
        ..
    } = attr;
    format!(
        "{path}\n  {mode} ({bits:04o})  links {nlink}  owner {uid}:{gid}  size {size}  inode {ino}\n  \
         changed {mtime}  status {ctime}  read {atime} (UTC)",
        mode = mode_text(attr.mode),
        bits = attr.mode & 0o7777,
        mtime = time_text(attr.mtime_ns),
        ctime = time_text(attr.ctime_ns),
        atime = time_text(attr.atime_ns),
    )
}
