//! How `agentfs fs` is called.

use std::convert::Infallible;

use agentfs_proto::bytes::Bytes;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum FsCommand {
    /// List a directory
    Ls {
        /// The directory
        #[arg(value_parser = path_argument, default_value = "/")]
        path: Bytes,
        /// With mode, links, owner, size and time
        #[arg(short, long)]
        long: bool,
    },
    /// Print a file
    Cat {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Write standard input to a file, which is made or emptied first
    Write {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Write behind what is there
        #[arg(short, long)]
        append: bool,
        /// Permission bits of a new file, octal
        #[arg(short, long, value_parser = octal, default_value = "644")]
        mode: u32,
    },
    /// Change permission bits
    Chmod {
        /// Octal
        #[arg(value_parser = octal)]
        mode: u32,
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Change owner and group
    Chown {
        /// UID, UID:GID or :GID, as numbers
        #[arg(value_parser = owner)]
        owner: (u32, u32),
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Print what stat(2) says
    Stat {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Of what a symbolic link points to
        #[arg(short = 'L', long)]
        follow: bool,
    },
    /// Set the times to now; make the file when it is not there
    Touch {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Set the size
    Truncate {
        /// The file
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Bytes
        #[arg(short, long)]
        size: u64,
    },
    #[command(flatten)]
    Names(NameCommand),
    /// Extended attributes
    Xattr {
        #[command(subcommand)]
        command: XattrCommand,
    },
}

/// What changes names.
#[derive(Debug, Subcommand)]
pub(super) enum NameCommand {
    /// Make a directory
    Mkdir {
        /// The directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// Parents too; a directory that is there is no error
        #[arg(short, long)]
        parents: bool,
        /// Permission bits, octal
        #[arg(short, long, value_parser = octal, default_value = "755")]
        mode: u32,
    },
    /// Remove an empty directory
    Rmdir {
        /// The directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Rename, over what is there
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
        /// Let the two change places
        #[arg(short = 'x', long)]
        exchange: bool,
    },
    /// Remove names
    Rm {
        /// The names
        #[arg(value_parser = path_argument, required = true)]
        paths: Vec<Bytes>,
        /// Directories with everything in them
        #[arg(short, long)]
        recursive: bool,
        /// A name that is not there is no error
        #[arg(short, long)]
        force: bool,
    },
    /// Make a link
    Ln {
        /// The file; with -s any text
        target: String,
        /// The new name
        #[arg(value_parser = path_argument)]
        link: Bytes,
        /// A symbolic link
        #[arg(short, long)]
        symbolic: bool,
    },
    /// Print what a symbolic link says
    Readlink {
        /// The link
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Make a named pipe
    Mkfifo {
        /// The new name
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum XattrCommand {
    /// Print a value
    Get {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// As user.note
        name: String,
    },
    /// Set a value
    Set {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// As user.note
        name: String,
        /// The value
        value: String,
    },
    /// List the names
    List {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
    },
    /// Remove an attribute
    Rm {
        /// The file or directory
        #[arg(value_parser = path_argument)]
        path: Bytes,
        /// As user.note
        name: String,
    },
}

impl FsCommand {
    /// Whether it changes nothing.
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

/// A path as typed: relative ones are of the branch's root.
pub(super) fn absolute(path: &str) -> Bytes {
    if path.starts_with('/') {
        path.into()
    } else {
        format!("/{path}").as_str().into()
    }
}

/// As [`absolute`], for the command line.
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
