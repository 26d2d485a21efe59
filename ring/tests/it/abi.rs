//! The layout of docs/ring-abi.md, seen from outside.

use agentfs_ring::{ArmOutcome, Capacity, Consumer, create};

use crate::support::{DATA, HEAD, Memory, OWNER, REFILL_AT, TAIL, WAKE_AT, claim, push, ring};

const NEVER: u64 = u64::MAX;

#[test]
fn a_new_region_has_the_documented_bytes() {
    let (_producer, _consumer, memory) = ring();
    let mut header = b"AgFsRing".to_vec();
    header.extend(1_u32.to_ne_bytes());
    header.extend(40_u32.to_ne_bytes());
    for word in [4096_u64, 64 << 10, 128 << 10] {
        header.extend(word.to_ne_bytes());
    }
    assert_eq!(memory.peek(0, 40), header);
    assert_eq!(memory.peek_word(TAIL), 0);
    assert_eq!(memory.peek_word(REFILL_AT), NEVER);
    assert_eq!(memory.peek_word(HEAD), 0);
    assert_eq!(memory.peek_word(WAKE_AT), NEVER);
    assert_eq!(memory.peek_word(OWNER), 0);
}

#[test]
fn a_record_has_the_documented_frame() {
    let (mut producer, consumer, memory) = ring();
    assert!(push(&mut producer, b"eleven byte"));
    assert_eq!(memory.peek(DATA, 4), 11_u32.to_ne_bytes());
    assert_eq!(memory.peek(DATA + 4, 4), 1_u32.to_ne_bytes());
    assert_eq!(memory.peek(DATA + 8, 11), b"eleven byte");
    assert_eq!(memory.peek_word(TAIL), 24);

    let mut claim = claim(&consumer);
    assert_eq!(memory.peek_word(OWNER), u64::from(std::process::id()));
    assert!(claim.next().expect("honest").is_some());
    assert_eq!(memory.peek_word(HEAD), 0);
    let _ = claim.release();
    assert_eq!(memory.peek_word(HEAD), 24);
    assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
    assert_eq!(memory.peek_word(WAKE_AT), 24);
    drop(claim);
    assert_eq!(memory.peek_word(OWNER), 0);
}

#[test]
fn a_frame_that_would_wrap_is_preceded_by_padding() {
    let (mut producer, consumer, memory) = ring();
    let mut claim = claim(&consumer);
    for _ in 0..3 {
        assert!(push(&mut producer, &[7; 1200]));
        assert!(claim.next().expect("honest").is_some());
        let _ = claim.release();
    }
    assert!(push(&mut producer, &[8; 600]));
    let padding_at = 3 * 1208;
    assert_eq!(memory.peek(DATA + padding_at, 4), 464_u32.to_ne_bytes());
    assert_eq!(memory.peek(DATA + padding_at + 4, 4), 2_u32.to_ne_bytes());
    assert_eq!(memory.peek(DATA, 4), 600_u32.to_ne_bytes());
    assert_eq!(claim.next().expect("honest").expect("a record").len(), 600);
}

#[test]
#[cfg(not(feature = "posix-shm"))]
fn the_memory_is_sealed_and_has_no_name() {
    let (_producer, fd) = create(Capacity::MIN).expect("a ring");
    let error = rustix::fs::ftruncate(&fd, 4096).expect_err("sealed");
    assert_eq!(error, rustix::io::Errno::PERM);
    assert_eq!(
        rustix::fs::fstat(&fd).expect("stat").st_size,
        128 * 1024 + 4096
    );
}

#[test]
#[cfg(not(feature = "posix-shm"))]
fn memory_that_could_shrink_is_refused() {
    let flags = rustix::fs::MemfdFlags::ALLOW_SEALING | rustix::fs::MemfdFlags::CLOEXEC;
    let fd = rustix::fs::memfd_create("not-a-ring", flags).expect("a memfd");
    assert!(matches!(
        Consumer::open(fd),
        Err(agentfs_ring::OpenError::NotSealed)
    ));
}

#[test]
fn the_consumer_cannot_write_what_is_the_producers() {
    let (_producer, fd) = create(Capacity::MIN).expect("a ring");
    let memory = Memory::map(&fd);
    let _consumer = Consumer::open(fd).expect("our own ring");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("our maps");
    let of_rings: Vec<&str> = maps
        .lines()
        .filter(|line| line.contains("/memfd:agentfs-ring") || line.contains("/shm/agentfs."))
        .collect();
    let writable_consumer_page = of_rings
        .iter()
        .any(|line| line.contains("rw-s 00010000") || line.contains("rw-s 00010"));
    let read_only_rest = of_rings.iter().any(|line| line.contains("r--s 00000000"));
    assert!(writable_consumer_page && read_only_rest, "{of_rings:#?}");
    drop(memory);
}
