//! The command line of `agentfs fs`.

use std::convert::Infallible;

use agentfs_proto::bytes::Bytes;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum FsCommand {
    /// List a directory
    #[command(
        after_help = "Examples:\n  agentfs fs ls\n  agentfs fs ls -l /src --branch attempt-1"
    )]
    Ls {
        /// The directory
        #[arg(value_parser = path_argument, default_value = "/")]
        path: Bytes,
        /// Also print mode, links, owner, size and time
        #[arg(short, long)]
        long: bool,
    },
    /// Print a file
    #[command(after_help = "Example:\n  agentfs fs cat /src/greeting")]
    Cat {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Write standard input to a file, which is created or emptied first
    #[command(
        after_help = "Examples:\n  echo hello | agentfs fs write /src/greeting\n  date | agentfs fs write --append /log"
    )]
    Write {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Append to what the file holds
        #[arg(short, long)]
        append: bool,
        /// The permission bits of a new file, octal
        #[arg(short, long, value_parser = octal, default_value = "644")]
        mode: u32,
    },
    /// Change permission bits
    #[command(after_help = "Example:\n  agentfs fs chmod 755 /run.sh")]
    Chmod {
        /// The permission bits, octal
        #[arg(value_parser = octal)]
        mode: u32,
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Change owner and group
    #[command(
        after_help = "Examples:\n  agentfs fs chown 1000:1000 /src\n  agentfs fs chown :100 /src"
    )]
    Chown {
        /// UID, UID:GID or :GID, as numbers
        #[arg(value_parser = owner)]
        owner: (u32, u32),
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Print size, owner, permissions and times
    #[command(after_help = "Examples:\n  agentfs fs stat /src\n  agentfs fs stat -L /link --json")]
    Stat {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Print this of what a symbolic link leads to, instead of the link
        #[arg(short = 'L', long)]
        follow: bool,
    },
    /// Set the times to now; a file that does not exist is created
    #[command(after_help = "Example:\n  agentfs fs touch /src/main.c")]
    Touch {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Cut or extend a file to a size
    #[command(after_help = "Example:\n  agentfs fs truncate --size 0 /log")]
    Truncate {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// The size in bytes
        #[arg(short, long)]
        size: u64,
    },
    #[command(flatten)]
    Names(NameCommand),
    /// Read and change extended attributes
    #[command(
        after_help = "Examples:\n  agentfs fs xattr list /src/b\n  agentfs fs xattr set /src/b user.note checked"
    )]
    Xattr {
        #[command(subcommand)]
        command: XattrCommand,
    },
}

/// The commands that change names.
#[derive(Debug, Subcommand)]
pub(super) enum NameCommand {
    /// Make a directory
    #[command(after_help = "Example:\n  agentfs fs mkdir --parents /src/a/b")]
    Mkdir {
        /// The directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Make the directories above it too; a directory that exists is no error
        #[arg(short, long)]
        parents: bool,
        /// The permission bits, octal
        #[arg(short, long, value_parser = octal, default_value = "755")]
        mode: u32,
    },
    /// Remove an empty directory
    #[command(after_help = "Example:\n  agentfs fs rmdir /src/a")]
    Rmdir {
        /// The directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Rename a file or directory; what has the new name is replaced
    #[command(
        after_help = "Examples:\n  agentfs fs mv /src/a /src/b\n  agentfs fs mv --exchange /current /next"
    )]
    Mv {
        /// The old name
        #[arg(value_parser = path_argument)]
        from: Bytes,
        /// The new name
        #[arg(value_parser = path_argument)]
        to: Bytes,
        /// Fail when the new name is taken
        #[arg(short, long, conflicts_with = "exchange")]
        no_replace: bool,
        /// Let the two names change places
        #[arg(short = 'x', long)]
        exchange: bool,
    },
    /// Remove files, and directories with --recursive
    #[command(after_help = "Examples:\n  agentfs fs rm /src/a /src/b\n  agentfs fs rm -rf /build")]
    Rm {
        /// The names
        #[arg(value_parser = path_argument, required = true)]
        paths: Vec<Bytes>,
        /// Remove directories with everything in them
        #[arg(short, long)]
        recursive: bool,
        /// A name that is not there is no error
        #[arg(short, long)]
        force: bool,
    },
    /// Make a hard link, or a symbolic one with -s
    #[command(
        after_help = "Examples:\n  agentfs fs ln /src/a /src/b\n  agentfs fs ln -s ../lib /src/lib"
    )]
    Ln {
        /// The file that gets another name; with -s the text of the link
        target: String,
        /// The new name
        #[arg(value_parser = path_argument)]
        link: Bytes,
        /// Make a symbolic link
        #[arg(short, long)]
        symbolic: bool,
    },
    /// Print where a symbolic link leads to
    #[command(after_help = "Example:\n  agentfs fs readlink /src/lib")]
    Readlink {
        /// The link
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Make a named pipe
    #[command(after_help = "Example:\n  agentfs fs mkfifo /queue")]
    Mkfifo {
        /// The new name
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum XattrCommand {
    /// Print the value of an attribute
    #[command(after_help = "Example:\n  agentfs fs xattr get /src/b user.note")]
    Get {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// The name of the attribute, as user.note
        name: String,
    },
    /// Set the value of an attribute
    #[command(after_help = "Example:\n  agentfs fs xattr set /src/b user.note checked")]
    Set {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// The name of the attribute, as user.note
        name: String,
        /// The value
        value: String,
    },
    /// List the names of all attributes
    #[command(after_help = "Example:\n  agentfs fs xattr list /src/b")]
    List {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Remove an attribute
    #[command(after_help = "Example:\n  agentfs fs xattr rm /src/b user.note")]
    Rm {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// The name of the attribute, as user.note
        name: String,
    },
}

impl FsCommand {
    /// Returns whether the command changes nothing.
    pub(super) fn only_looks(&self) -> bool {
        match self {
            Self::Ls { .. } | Self::Cat { .. } | Self::Stat { .. } => true,
            Self::Xattr { command } => {
                matches!(
                    command,
                    XattrCommand::Get { .. } | XattrCommand::List { .. }
                )
            }
            Self::Names(command) => matches!(command, NameCommand::Readlink { .. }),
            Self::Write { .. }
            | Self::Chmod { .. }
            | Self::Chown { .. }
            | Self::Touch { .. }
            | Self::Truncate { .. } => false,
        }
    }
}

/// Returns a path as typed. A relative one begins at the root of the branch.
pub(super) fn absolute(path: &str) -> Bytes {
    if path.starts_with('/') {
        path.into()
    } else {
        format!("/{path}").as_str().into()
    }
}

/// Parses a path of the command line.
pub(crate) fn path_argument(path: &str) -> Result<Bytes, Infallible> {
    Ok(absolute(path))
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permission bits are up to four octal digits, as 644".to_owned()),
    }
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
    let number = |text: &str| match text {
        "" => Ok(u32::MAX),
        text => text.parse().map_err(|_| format!("{text} is not a number")),
    };
    Ok((number(uid)?, number(gid)?))
}
