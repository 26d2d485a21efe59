//! iceoryx2 between two processes: one publisher, one subscriber, nothing dropped.

use core::hint::spin_loop;

use iceoryx2::prelude::*;

use super::throughput::Run;
use super::{body, streams};
use crate::process_pair::{Page, now, run};

const BATCH: usize = 64;

fn node() -> Node<ipc::Service> {
    set_log_level(LogLevel::Error);
    NodeBuilder::new().create::<ipc::Service>().expect("a node")
}

fn service_name() -> ServiceName {
    let name = format!("agentfs-bench-{}-{}", std::process::id(), now());
    name.as_str().try_into().expect("a service name")
}

/// Returns the stream of one sample a record, of 64 or 256 bytes.
pub(super) fn single(len: usize) -> Option<Run> {
    Some(if len == 64 {
        Box::new(one_by_one::<8>)
    } else {
        Box::new(one_by_one::<32>)
    })
}

/// Returns the stream of slices of 64 records.
pub(super) fn slices(len: usize) -> Option<Run> {
    Some(if len == 64 {
        Box::new(in_slices::<8>)
    } else {
        Box::new(in_slices::<32>)
    })
}

/// Has the writer create the service and the reader open it afterwards: when two create or open one at the
/// same time, each may end up with a service of its own, and no reader gets the records.
fn one_by_one<const WORDS: usize>(records: u64) -> f64 {
    let page = Page::new();
    let name = service_name();
    run(
        || {
            let node = node();
            let service = node
                .service_builder(&name)
                .publish_subscribe::<[u64; WORDS]>()
                .history_size(0)
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(256)
                .create()
                .expect("a service");
            page.meet();
            let publisher = service
                .publisher_builder()
                .max_loaned_samples(1)
                .create()
                .expect("a publisher");
            page.meet();
            page.meet();
            streams::mark_start(&page);
            for item in 0..records {
                let sample = publisher.loan_uninit().expect("a sample");
                let sample = sample.write_payload(body::array(item));
                sample.send().expect("sent");
            }
            page.meet();
        },
        || {
            let node = node();
            page.meet();
            let service = node
                .service_builder(&name)
                .publish_subscribe::<[u64; WORDS]>()
                .open()
                .expect("a service");
            let subscriber = service
                .subscriber_builder()
                .buffer_size(256)
                .create()
                .expect("a subscriber");
            page.meet();
            page.meet();
            let (mut sum, mut seen) = (0_u64, 0);
            while seen < records {
                match subscriber.receive().expect("received") {
                    Some(sample) => {
                        sum = sum.wrapping_add(body::sum_array(sample.payload()));
                        seen += 1;
                    }
                    None => spin_loop(),
                }
            }
            let end = now();
            page.meet();
            streams::finish(&page, end, sum, (records, WORDS as u64))
        },
    )
}

fn in_slices<const WORDS: usize>(records: u64) -> f64 {
    let page = Page::new();
    let name = service_name();
    let batches = records / BATCH as u64;
    let records = batches * BATCH as u64;
    run(
        || {
            let node = node();
            let service = node
                .service_builder(&name)
                .publish_subscribe::<[[u64; WORDS]]>()
                .history_size(0)
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(64)
                .create()
                .expect("a service");
            page.meet();
            let publisher = service
                .publisher_builder()
                .max_loaned_samples(1)
                .initial_max_slice_len(BATCH)
                .create()
                .expect("a publisher");
            page.meet();
            page.meet();
            streams::mark_start(&page);
            for batch in 0..batches {
                let sample = publisher.loan_slice_uninit(BATCH).expect("a sample");
                let first = batch * BATCH as u64;
                let sample = sample.write_from_fn(|index| body::array(first + index as u64));
                sample.send().expect("sent");
            }
            page.meet();
        },
        || {
            let node = node();
            page.meet();
            let service = node
                .service_builder(&name)
                .publish_subscribe::<[[u64; WORDS]]>()
                .open()
                .expect("a service");
            let subscriber = service
                .subscriber_builder()
                .buffer_size(64)
                .create()
                .expect("a subscriber");
            page.meet();
            page.meet();
            let (mut sum, mut seen) = (0_u64, 0);
            while seen < batches {
                match subscriber.receive().expect("received") {
                    Some(sample) => {
                        let records = sample.payload().iter();
                        sum = records.fold(sum, |sum, r| sum.wrapping_add(body::sum_array(r)));
                        seen += 1;
                    }
                    None => spin_loop(),
                }
            }
            let end = now();
            page.meet();
            streams::finish(&page, end, sum, (records, WORDS as u64))
        },
    )
}
