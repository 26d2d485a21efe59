//! Tests several threads that make calls on one queue.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use agentfs_interpose_shim::kqueue::abi::*;
use agentfs_testkq::wait_until_asleep;

use super::gate::{Gate, stop_after_the_next_kevent};
use super::support::{Process, Source, brief, file, number, user, vnode, woken};

const WRITE: u32 = NOTE_WRITE;
const ATTRIB: u32 = 0x08;

/// Posts to many knotes while threads fetch, and returns how often each post was heard.
fn heard_by_threads(threads: usize, room: usize, flags: u16) -> BTreeMap<u64, usize> {
    let process = Process::new();
    let kq = process.kqueue();
    let files: Vec<_> = (0..200).map(|_| file()).collect();
    let changes: Vec<_> = files
        .iter()
        .map(|f| vnode(f, EV_ADD | flags, WRITE))
        .collect();
    kq.call(&changes, 0, None).unwrap();
    let stop = 1 << 40;
    let mut heard = BTreeMap::new();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let fetchers: Vec<_> = (0..threads)
            .map(|_| {
                let (sender, kq) = (sender.clone(), &kq);
                scope.spawn(move || {
                    loop {
                        let events = kq.call(&[], room, Some(Duration::from_secs(30))).unwrap();
                        assert!(!events.is_empty(), "a wake-up was lost");
                        assert!(events.len() <= room);
                        let ends = events.iter().any(|e| e.filter == EVFILT_USER);
                        for event in events {
                            sender.send(event.ident).unwrap();
                        }
                        if ends {
                            return;
                        }
                    }
                })
            })
            .collect();
        wait_until_asleep(kq.fd, threads);
        for (index, file) in files.iter().enumerate() {
            let source = if index % 3 == 0 {
                Source::Kernel
            } else {
                Source::Daemon
            };
            process.post(source, file, WRITE);
        }
        while heard.len() < files.len() {
            let ident = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
            *heard.entry(ident).or_insert(0) += 1;
        }
        kq.change(user(stop, EV_ADD, NOTE_TRIGGER)).unwrap();
        for fetcher in fetchers {
            fetcher.join().unwrap();
        }
        drop(sender);
        for ident in receiver {
            *heard.entry(ident).or_insert(0) += 1;
        }
    });
    heard.remove(&stop);
    assert_eq!(heard.len(), files.len());
    assert!(files.iter().all(|file| heard.contains_key(&number(file))));
    heard
}

#[test]
fn each_event_goes_to_exactly_one_of_two_threads() {
    for room in [1, 3, 64] {
        for flags in [EV_CLEAR, EV_ONESHOT] {
            let heard = heard_by_threads(2, room, flags);
            assert!(heard.values().all(|times| *times == 1), "{heard:?}");
        }
    }
}

#[test]
fn one_wake_up_is_enough_for_many_threads() {
    let heard = heard_by_threads(6, 2, EV_CLEAR);
    assert!(heard.values().all(|times| *times == 1), "{heard:?}");
}

#[test]
fn registering_while_others_fetch_keeps_kernel_and_mirror_the_same() {
    let process = Process::new();
    let kq = process.kqueue();
    let files: Vec<_> = (0..8).map(|_| file()).collect();
    kq.change(vnode(&files[0], EV_ADD | EV_CLEAR, WRITE))
        .unwrap();
    std::thread::scope(|scope| {
        let fetcher = scope.spawn(|| {
            let mut count = 0;
            loop {
                let events = kq.call(&[], 4, Some(Duration::from_secs(30))).unwrap();
                assert!(!events.is_empty(), "a wake-up was lost");
                count += events.len();
                if events.iter().any(|e| e.filter == EVFILT_USER) {
                    return count;
                }
            }
        });
        for round in 0..300 {
            let file = &files[round % files.len()];
            kq.change(vnode(file, EV_ADD | EV_DISPATCH | EV_CLEAR, WRITE))
                .unwrap();
            process.post(Source::Daemon, file, WRITE);
            kq.change(vnode(file, EV_ENABLE, WRITE)).unwrap();
            if round % 5 == 0 {
                kq.change(vnode(file, EV_DELETE, 0)).unwrap();
            }
        }
        kq.change(user(7, EV_ADD, NOTE_TRIGGER)).unwrap();
        assert!(fetcher.join().unwrap() > 0);
    });
    // Whatever happened before, every knote that is left gets one more event.
    drop(kq.ready());
    for file in &files {
        kq.change(vnode(file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        kq.change(vnode(file, EV_ENABLE, WRITE)).unwrap();
    }
    for file in &files {
        process.post(Source::Daemon, file, WRITE);
    }
    let heard = kq
        .ready()
        .iter()
        .filter(|e| e.filter == EVFILT_VNODE)
        .count();
    assert_eq!(heard, files.len());
}

#[test]
fn an_ev_dispatch_knote_goes_to_one_thread_though_kernel_and_daemon_tell_it_at_once() {
    for clear in [0, EV_CLEAR] {
        let process = Process::new();
        let (kq, file) = (process.kqueue(), file());
        let flags = EV_ADD | EV_DISPATCH | clear;
        kq.change(vnode(&file, flags, WRITE | ATTRIB)).unwrap();
        let (gate, returned, go_on) = Gate::new();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                stop_after_the_next_kevent(gate);
                kq.call(&[], 4, None).unwrap()
            });
            wait_until_asleep(kq.fd, 1);
            process.post(Source::Kernel, &file, ATTRIB);
            // The kernel has disabled the knote for the sleeper, which is not back yet.
            returned.recv_timeout(Duration::from_secs(30)).unwrap();
            process.post(Source::Daemon, &file, WRITE);
            assert_eq!(kq.brief(), [(number(&file), flags, WRITE)]);
            go_on.send(()).unwrap();
            wait_until_asleep(kq.fd, 1);
            assert_eq!(kq.brief(), [], "it is disabled");
            kq.change(vnode(&file, EV_ENABLE, WRITE | ATTRIB)).unwrap();
            let all = if clear == 0 { WRITE | ATTRIB } else { ATTRIB };
            assert_eq!(brief(&woken(sleeper)), [(number(&file), flags, all)]);
        });
        assert_eq!(kq.brief(), [], "disabled again");
    }
}
