//! Mounts a new branch and serves it until the input ends: `serve LOWER POINT...`, where `-` stands
//! for no lower directory. All points show one branch. Says `ready` when they can be used.
#![expect(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::io::Read as _;

use agentfs_core::{FsConfig, FsCore, Overlay};
use agentfs_mount::{MountOptions, Mounts};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let lower = arguments.next().ok_or("usage: serve LOWER POINT...")?;
    let overlay = (lower != "-").then(|| Overlay {
        lower: lower.into(),
    });
    let fs = FsCore::new(FsConfig {
        overlay,
        ..FsConfig::default()
    })?;
    let mounts = Mounts::new(&fs)?;
    let mut handles = Vec::new();
    for point in arguments {
        let options = MountOptions::default();
        handles.push(mounts.mount(FsCore::MAIN, point.as_ref(), &options)?);
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
