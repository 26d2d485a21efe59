//! Prints what changes below a path of a branch:
//! `cargo run -p agentfs-client --example subscribe -- /src`.
#![expect(clippy::print_stdout, reason = "an example shows what it hears")]

use agentfs_client::{EventKind, SubscriptionOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/".to_owned());
    let subscription = SubscriptionOptions::new()
        .program("subscribe")
        .path(path)
        .open()?;
    for event in subscription {
        let event = event?;
        if let EventKind::Renamed { to } = event.kind {
            println!("renamed {} -> {}", event.path.display(), to.display());
        } else if matches!(event.kind, EventKind::Overflow | EventKind::Resumed) {
            println!("look at everything again");
        } else {
            println!("{:?} {}", event.kind, event.path.display());
        }
    }
    Ok(())
}
