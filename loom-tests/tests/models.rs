//! Runs every model: loom explores it under `--cfg loom`, and otherwise it runs between real
//! processes.

use agentfs_loom_tests::{MODELS, Model};

#[cfg(loom)]
fn check(model: &'static Model) {
    agentfs_loom_tests::run_model(model);
}

#[cfg(not(loom))]
fn check(model: &'static Model) {
    use agentfs_loom_tests::World;
    use agentfs_ring::Capacity;
    use std::process::Command;
    use std::sync::Mutex;

    /// A process inherits every descriptor that is not close-on-exec, so no two tests may make
    /// their descriptors at once: a stray copy of a lifeline would hide an exit.
    static SPAWNING: Mutex<()> = Mutex::new(());

    let (world, mut producer) = World::new(Capacity::MIN).expect("a ring");
    let mut consumers = Vec::new();
    for id in 1..=model.consumers {
        let _alone = SPAWNING.lock().expect("no test panicked here");
        let fds = world.consumer_fds().expect("descriptors");
        let consumer = Command::new(env!("CARGO_BIN_EXE_peer"))
            .args([model.name, &model.native_items.to_string(), &id.to_string()])
            .args(World::numbers(&fds))
            .spawn()
            .expect("a consumer's process");
        consumers.push(consumer);
    }
    let side = world.into_producer(model.native_items).expect("a side");
    (model.producer)(&mut producer, &side);
    let tally = side.exit();
    for mut consumer in consumers {
        let status = consumer.wait().expect("a consumer's status");
        assert!(
            status.success(),
            "{}: the consumer failed: {status}",
            model.name
        );
    }
    (model.check)(tally.counters(), model.native_items);
}

fn model(name: &str) -> &'static Model {
    MODELS
        .iter()
        .find(|model| model.name == name)
        .expect("a model of this name")
}

macro_rules! models {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                check(model(stringify!($name)));
            }
        )*

        #[test]
        fn every_model_is_run() {
            let run = [$(stringify!($name)),*];
            let all: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
            assert_eq!(all, run);
        }
    };
}

models![
    publish_observe,
    wrap_with_padding,
    arm_versus_publish,
    batch_publish,
    full_then_refill,
    coalesce_versus_release,
    peer_exit_producer,
    peer_exit_consumer,
    hand_over,
    peek_and_hand_over,
    refill_with_padding,
    take_over,
];
