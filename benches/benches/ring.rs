//! The ring's two ends in one thread: what the code itself costs, without another processor in the
//! way. `cargo bench -p agentfs-bench --bench ring`.

use std::hint::black_box;

use agentfs_ring::{Capacity, Claim, OwnerId, Producer, Reserve, heap};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn push(producer: &mut Producer, body: &[u8]) {
    let Ok(Reserve::Slot(mut slot)) = producer.reserve(body.len()) else {
        panic!("the ring has room");
    };
    slot.put(body);
    slot.commit();
}

fn pop(claim: &mut Claim<'_>) -> u64 {
    let record = claim.next().expect("not corrupt").expect("published");
    let mut copy = [0; 256];
    let bytes = record.copy_to(&mut copy).expect("long enough");
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

/// One publish and one release for each record, and for 64.
fn push_and_pop(criterion: &mut Criterion) {
    let (mut producer, consumer) = heap(Capacity::DEFAULT).expect("memory");
    let mut claim = consumer
        .claim(OwnerId::this_process(), |_| true)
        .expect("nobody else pops");
    for size in [64, 256] {
        for batch in [1_u64, 64] {
            let mut group = criterion.benchmark_group(format!("{size} bytes"));
            group.throughput(Throughput::Elements(batch));
            let body = vec![7; size];
            group.bench_function(format!("batches of {batch}"), |bencher| {
                bencher.iter(|| {
                    for _ in 0..batch {
                        push(&mut producer, black_box(&body));
                    }
                    let bell = producer.publish().expect("an honest consumer");
                    for _ in 0..batch {
                        black_box(pop(&mut claim));
                    }
                    (bell, claim.release())
                });
            });
            group.finish();
        }
    }
}

/// The arm of a reader that finds nothing, and the publish that finds it asleep.
fn arm_and_ring(criterion: &mut Criterion) {
    let (mut producer, consumer) = heap(Capacity::DEFAULT).expect("memory");
    let mut claim = consumer
        .claim(OwnerId::this_process(), |_| true)
        .expect("nobody else pops");
    criterion.bench_function("arm, publish, pop", |bencher| {
        bencher.iter(|| {
            let armed = claim.arm().expect("not corrupt");
            push(&mut producer, black_box(&[7; 64]));
            let bell = producer.publish().expect("an honest consumer");
            black_box(pop(&mut claim));
            (armed, bell, claim.release())
        });
    });
}

/// A program takes the reading end and gives it back for every call that it makes.
fn claim(criterion: &mut Criterion) {
    let (_producer, consumer) = heap(Capacity::DEFAULT).expect("memory");
    let me = OwnerId::this_process();
    criterion.bench_function("claim an empty ring and look", |bencher| {
        bencher.iter(|| {
            let mut claim = consumer.claim(me, |_| true).expect("nobody else pops");
            claim.has_pending()
        });
    });
}

criterion_group!(benches, push_and_pop, arm_and_ring, claim);
criterion_main!(benches);
