//! Random histories: after each restart, what is recovered is what the log promises.

use std::sync::{Arc, OnceLock, Weak};

use agentfs_testkit::environment;
use agentfs_testkit::random::Random;
use agentfs_testkit::shrink::shrink;

use super::machine::{DataFile, KIND, Machine, SIZES, all, append};
use crate::disk::simulated::Fault;
use crate::log::{Content, Log, Purpose};
use crate::model::errno::{Errno, Result};
use crate::sync::Mutex;

const HISTORIES: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A change with a record of that length, and content of that length.
    Append {
        record: usize,
        content: usize,
        purpose: Purpose,
    },
    /// A sync during which so many changes are made, and a checkpoint is begun.
    Sync {
        amid: usize,
        is_rotated: bool,
    },
    Rotate,
    /// A checkpoint of all so far, which makes the records before it unnecessary.
    Checkpoint,
    Kill,
    CutPower,
    LeaveFree(u64),
    FailAfter(u64, Fault),
}

fn step(random: &mut Random) -> Step {
    let purpose = random.pick(&[Purpose::Ordinary, Purpose::Ordinary, Purpose::Freeing]);
    match random.below(100) {
        0..55 => Step::Append {
            record: random.pick(&[0, 5, 40, 200, 283, 284, 700, 3000]),
            content: random.pick(&[0, 0, 1, 100, 5000]),
            purpose,
        },
        55..70 => Step::Sync {
            amid: random.pick(&[0, 0, 1, 3]),
            is_rotated: random.chance(20),
        },
        70..75 => Step::Rotate,
        75..79 => Step::Checkpoint,
        79..85 => Step::Kill,
        85..91 => Step::CutPower,
        91..94 => Step::LeaveFree(random.pick(&[0, 4096, 10_000, 1 << 40])),
        _ => {
            let fault = random.pick(&[Fault::Error, Fault::Crash]);
            Step::FailAfter(random.range(0..12), fault)
        }
    }
}

/// A change as a test remembers it: what its record says, and so what its content has to be.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    /// Not known for one whose operation failed.
    number: Option<u64>,
    payload: Vec<u8>,
}

/// Where the content of a change lies, which its record says.
struct Reference {
    at: u64,
    len: usize,
    seed: u64,
}

impl Reference {
    const SIZE: usize = 24;

    fn encode(&self) -> Vec<u8> {
        let words = [self.at, self.len as u64, self.seed];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = payload.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        Some(Self {
            at: word(0)?,
            len: usize::try_from(word(8)?).unwrap(),
            seed: word(16)?,
        })
    }

    fn content(&self) -> Vec<u8> {
        Random::new(self.seed).bytes(self.len)
    }
}

/// The files that records refer to, and what other threads do while they are synced.
#[derive(Debug)]
struct BusyContent {
    data: Arc<DataFile>,
    log: OnceLock<Weak<Log>>,
    amid: Mutex<Amid>,
}

#[derive(Debug, Default)]
struct Amid {
    payloads: Vec<Vec<u8>>,
    is_rotated: bool,
    appended: Vec<(Vec<u8>, Result<u64>)>,
}

impl Content for BusyContent {
    fn covered(&self) {}

    fn count_records(&self, count: &mut dyn FnMut()) {
        count();
    }

    fn sync(&self) -> Result<()> {
        self.data.sync()?;
        let mut amid = self.amid.lock();
        let Some(log) = self.log.get().and_then(Weak::upgrade) else {
            return Ok(());
        };
        for payload in std::mem::take(&mut amid.payloads) {
            let appended = append(&log, &payload);
            amid.appended.push((payload, appended));
        }
        if std::mem::take(&mut amid.is_rotated) {
            let _refused = log.rotate();
        }
        Ok(())
    }
}

/// A store under test, and what must be in it.
struct Run {
    machine: Machine,
    log: Option<(Arc<Log>, Arc<BusyContent>)>,
    /// The last checkpoint.
    from: u64,
    /// What has been acknowledged since.
    changes: Vec<Change>,
    /// How many of the changes survive a power cut.
    synced: usize,
    /// The change whose operation failed last. It may be there.
    in_doubt: Option<Change>,
    content_end: u64,
    random: Random,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Self {
            machine: Machine::new(seed),
            log: None,
            from: 1,
            changes: Vec::new(),
            synced: 0,
            in_doubt: None,
            content_end: 0,
            random: Random::new(!seed),
        };
        run.open();
        run
    }

    fn open(&mut self) -> bool {
        let Ok(data) = self.machine.data() else {
            return false;
        };
        let recovery = self.machine.recover(self.from).unwrap();
        let content = Arc::new(BusyContent {
            data,
            log: OnceLock::new(),
            amid: Mutex::default(),
        });
        if let Ok(log) = recovery.into_log(content.clone(), SIZES) {
            let log = Arc::new(log);
            content.log.set(Arc::downgrade(&log)).unwrap();
            self.log = Some((log, content));
        }
        self.log.is_some()
    }

    fn carry_out(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Append {
                record,
                content,
                purpose,
            } => self.append(record, content, purpose),
            Step::Sync { amid, is_rotated } => self.sync(amid, is_rotated),
            Step::Rotate => {
                if let Some((log, _)) = &self.log {
                    let _refused = log.rotate();
                }
            }
            Step::Checkpoint => self.checkpoint(),
            Step::Kill => return self.restart(false),
            Step::CutPower => return self.restart(true),
            Step::LeaveFree(free) => self.machine.disk.leave_free(free),
            Step::FailAfter(calls, fault) => self.machine.disk.fail_after(calls, fault),
        }
        Ok(())
    }

    fn append(&mut self, record: usize, content: usize, purpose: Purpose) {
        let reference = self.reference(content);
        let mut payload = reference.encode();
        payload.extend(self.random.bytes(record));
        let Some((log, files)) = &self.log else {
            return;
        };
        let Ok(room) = log.reserve(purpose) else {
            return;
        };
        // Content is never overwritten here: where it is depends on the store.
        self.content_end += content as u64;
        if content > 0 {
            let written = files.data.write(&reference.content(), reference.at);
            if written.is_err() {
                return;
            }
        }
        let appended = log.append(room, KIND, &payload);
        self.note(payload, appended);
    }

    fn sync(&mut self, amid: usize, is_rotated: bool) {
        let Some((log, content)) = &self.log else {
            return;
        };
        let (log, content) = (Arc::clone(log), Arc::clone(content));
        let payloads = (0..amid).map(|_| self.reference(0).encode()).collect();
        *content.amid.lock() = Amid {
            payloads,
            is_rotated,
            appended: Vec::new(),
        };
        let covered = self.changes.len();
        let synced = log.sync();
        let amid = std::mem::take(&mut *content.amid.lock());
        for (payload, appended) in amid.appended {
            self.note(payload, appended);
        }
        if synced == Ok(()) {
            self.synced = self.synced.max(covered);
        }
    }

    fn reference(&mut self, len: usize) -> Reference {
        Reference {
            at: self.content_end,
            len,
            seed: self.random.next_u64(),
        }
    }

    /// Notes how a change went.
    fn note(&mut self, payload: Vec<u8>, appended: Result<u64>) {
        let number = appended.ok();
        let change = Change { number, payload };
        match appended {
            Ok(_) => self.changes.push(change),
            Err(Errno::EIO) => self.in_doubt = Some(change),
            Err(_) => {}
        }
    }

    /// A checkpoint is on disk before anything is forgotten for it.
    fn checkpoint(&mut self) {
        let Some((log, files)) = &self.log else {
            return;
        };
        let Ok(number) = log.rotate() else { return };
        if files.data.file.sync().is_err() {
            return;
        }
        self.from = number;
        self.changes.clear();
        self.synced = 0;
        let _left = log.forget_before(number);
    }

    /// Ends the process, or the machine, and compares what is there with what must be.
    fn restart(&mut self, is_power_cut: bool) -> Result<(), String> {
        self.log = None;
        loop {
            if is_power_cut {
                self.machine.cut_power();
            } else {
                self.machine.kill();
            }
            self.compare(is_power_cut)?;
            // Opening can fail as everything else can.
            if self.random.chance(20) {
                let calls = self.random.range(0..12);
                let fault = self.random.pick(&[Fault::Error, Fault::Crash]);
                self.machine.disk.fail_after(calls, fault);
            } else {
                self.machine.disk.leave_free(1 << 40);
            }
            if self.open() {
                return Ok(());
            }
        }
    }

    fn compare(&mut self, is_power_cut: bool) -> Result<(), String> {
        let recovery = self
            .machine
            .recover(self.from)
            .map_err(|it| it.to_string())?;
        if let Some(damage) = &recovery.damage {
            return Err(damage.to_string());
        }
        let found = all(&recovery);
        let mut possible = self.changes.clone();
        possible.extend(self.in_doubt.take());
        if found.len() > possible.len() {
            return Err(format!("{} records of {}", found.len(), possible.len()));
        }
        for (found, possible) in found.iter().zip(&mut possible) {
            let number = *possible.number.get_or_insert(found.number);
            if (number, &possible.payload) != (found.number, &found.payload) {
                return Err(format!("record {} is not {number}", found.number));
            }
        }
        let least = if is_power_cut {
            self.synced
        } else {
            self.changes.len()
        };
        if found.len() < least {
            return Err(format!("{} records of at least {least}", found.len()));
        }
        possible.truncate(found.len());
        self.changes = possible;
        if is_power_cut {
            // They have been read from the disk.
            self.synced = self.changes.len();
        }
        self.compare_content()
    }

    fn compare_content(&self) -> Result<(), String> {
        let data = self.machine.data().unwrap();
        for change in &self.changes {
            let reference = Reference::decode(&change.payload).unwrap();
            let mut content = vec![0; reference.len];
            let read = data.file.read_at(&mut content, reference.at).unwrap();
            if read != content.len() || content != reference.content() {
                return Err(format!("the content of record {:?}", change.number));
            }
        }
        Ok(())
    }
}

fn run(seed: u64, steps: &[Step]) -> Result<usize, String> {
    let mut run = Run::new(seed);
    let mut seen = 0;
    for step in steps {
        run.carry_out(*step)?;
        seen = seen.max(run.changes.len());
    }
    run.restart(Random::new(seed).chance(50))?;
    Ok(seen)
}

#[test]
fn every_history_leaves_what_was_promised() {
    let only = environment::number("AGENTFS_LOG_SEED");
    let seeds = only.map_or(0..HISTORIES, |seed| seed..seed + 1);
    let mut seen = 0;
    for seed in seeds.clone() {
        let mut random = Random::new(seed);
        let count = random.below(60);
        let steps: Vec<Step> = (0..count).map(|_| step(&mut random)).collect();
        match run(seed, &steps) {
            Ok(changes) => seen += changes,
            Err(_) => {
                let small = shrink(steps, |steps| run(seed, steps).is_err());
                let error = run(seed, &small).unwrap_err();
                panic!("AGENTFS_LOG_SEED={seed}: {error}\n{small:#?}");
            }
        }
    }
    assert!(only.is_some() || seen > 50_000, "only {seen} changes");
}

#[test]
fn what_is_recalled_of_a_reference_is_what_was_noted() {
    let reference = Reference {
        at: 1,
        len: 2,
        seed: 3,
    };
    let again = Reference::decode(&reference.encode()).unwrap();
    assert_eq!((again.at, again.len, again.seed), (1, 2, 3));
    assert_eq!(reference.encode().len(), Reference::SIZE);
}
