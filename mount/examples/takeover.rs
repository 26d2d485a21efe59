//! Servers that come one after another on one mount, and its keeper, for tests:
//!
//! * `takeover serve DIR PATIENCE POINT` mounts a branch, with a keeper whose socket is in `DIR`;
//! * `takeover next DIR PATIENCE` takes over what is kept in `DIR`;
//! * `takeover keep SOCKET PATIENCE` is the keeper.
//!
//! The servers say `ready`, and leave the mount to the next one when their input ends. What they show is
//! the same in each of them: `d/a` and `d/w`, of 64 KiB; and `d/outside` comes and goes.
#![expect(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::ffi::OsString;
use std::io::Read as _;
use std::time::Duration;

use agentfs_core::{Branch, Caller, FsConfig, FsCore, OpenFlags};
use agentfs_mount::{KeeperOptions, MountOptions, Mounts};

const SIZE: usize = 64 << 10;
/// How long the server before may take to end.
const END: Duration = Duration::from_secs(20);
const USAGE: &str =
    "usage: takeover serve|next DIR PATIENCE [POINT] | takeover keep SOCKET PATIENCE";

fn filesystem() -> Result<FsCore, Box<dyn Error>> {
    let (fs, root) = (FsCore::new(FsConfig::default())?, Caller::root());
    let branch = fs.branch(FsCore::MAIN)?;
    branch.mkdir(&root, "/d", 0o755)?;
    for name in ["/d/a", "/d/w"] {
        let flags = OpenFlags::WRITE_ONLY | OpenFlags::CREATE;
        let file = branch.open(&root, name, flags, 0o644)?;
        branch.write_at(&root, file, 0, &vec![b'a'; SIZE])?;
        branch.close(&root, file)?;
    }
    Ok(fs)
}

/// Changes a directory again and again, so that the kernel has to forget: this thread waits for the lock of
/// the directory then, which programs hold until the server answers them.
fn change_from_outside(branch: &Branch) {
    let root = Caller::root();
    while branch.mkdir(&root, "/d/outside", 0o755).is_ok()
        && branch.rmdir(&root, "/d/outside").is_ok()
    {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let what = arguments.next().ok_or(USAGE)?;
    if what == "keep" {
        return Ok(agentfs_mount::keep(arguments)?);
    }
    let directory = arguments.next().ok_or(USAGE)?;
    let patience = arguments.next().and_then(|it| it.into_string().ok());
    let patience = patience.ok_or(USAGE)?.parse()?;
    let options = MountOptions {
        keeper: Some(KeeperOptions {
            program: std::env::current_exe()?,
            arguments: vec![OsString::from("keep")],
            directory: directory.clone().into(),
            patience: Duration::from_millis(patience),
            next_server: Vec::new(),
        }),
        ..MountOptions::default()
    };
    let fs = filesystem()?;
    let mounts = Mounts::new(&fs)?;
    let mut handles = Vec::new();
    if what == "serve" {
        let point = arguments.next().ok_or(USAGE)?;
        handles.push(mounts.mount(FsCore::MAIN, point.as_ref(), &options)?);
    } else {
        for socket in agentfs_mount::kept_in(directory.as_ref())? {
            let kept = agentfs_mount::take(&socket, END)?;
            handles.push(mounts.take_over(kept, &options)?);
        }
    }
    let branch = fs.branch(FsCore::MAIN)?;
    std::thread::spawn(move || change_from_outside(&branch));
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for handle in handles {
        drop(handle.leave()?);
    }
    Ok(())
}
