//! A consumer's process: `peer MODEL ITEMS ID FD...`. Started by the native run of the models.

#[cfg(not(loom))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use agentfs_loom_tests::{FD_COUNT, MODELS, World};

    let mut args = std::env::args().skip(1);
    let mut next = || args.next().ok_or("usage: peer MODEL ITEMS ID FD...");
    let name = next()?;
    let model = MODELS
        .iter()
        .find(|model| model.name == name)
        .ok_or("no such model")?;
    let (items, id) = (next()?.parse()?, next()?.parse()?);
    let mut fds = [0; FD_COUNT];
    for fd in &mut fds {
        *fd = next()?.parse()?;
    }
    let (consumer, side) = World::consumer(fds, items, id)?;
    (model.consumer)(&consumer, &side);
    Ok(())
}

#[cfg(loom)]
fn main() {}
