//! Every change is accounted for: told, said by an event that was still unread, part of a difference
//! that was told instead, or counted in an overflow.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use crate::difference;
use crate::truth::{ATTRIBUTES, DIRECTORY, HEALED, InotifyEvent, Told};

/// What became of the changes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct Account {
    /// Told one by one.
    pub(crate) delivered: u64,
    /// Said already by an event that was unread.
    pub(crate) coalesced: u64,
    /// Told as part of a difference between two states.
    pub(crate) healed: u64,
    /// Before an overflow that was told.
    pub(crate) overflowed: u64,
    /// After the last thing that was told by a daemon that was killed, which its end tells.
    pub(crate) died: u64,
    /// None of that.
    pub(crate) unaccounted: u64,
    /// What was told and is not true, or is missing: the first few.
    pub(crate) complaints: Vec<String>,
}

const COMPLAINTS: usize = 10;

impl Account {
    fn complain(&mut self, text: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(text);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.coalesced += other.coalesced;
        self.healed += other.healed;
        self.overflowed += other.overflowed;
        self.died += other.died;
        self.unaccounted += other.unaccounted;
        for complaint in &other.complaints {
            self.complain(complaint.clone());
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.unaccounted == 0 && self.complaints.is_empty()
    }
}

/// Which part of the changes a listener must account for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// All.
    Whole,
    /// All up to the last that it was told: then the daemon was killed.
    UntilKilled,
    /// Between the first and the last that it was told: it came late and was killed.
    Between,
}

/// What a native subscriber was told, against what was committed.
pub(crate) fn native(truth: &[Told], heard: &[Told], scope: Scope) -> Account {
    let mut check = Native {
        account: Account::default(),
        truth,
        at: 0,
        mirror: (scope != Scope::Between).then(BTreeSet::new),
        last: None,
        run: Vec::new(),
        overflowed: false,
    };
    if scope == Scope::Between {
        let first = heard
            .iter()
            .find(|it| !it.has(HEALED) && it.kind != OVERFLOW);
        let Some(first) = first else {
            return check.account;
        };
        check.at = truth.partition_point(|it| it.seq < first.seq);
    }
    for told in heard {
        check.hear(told, scope);
    }
    let rest = truth.len().saturating_sub(check.at) as u64;
    match scope {
        Scope::Whole => check.gap(truth.len()),
        Scope::UntilKilled => check.account.died += rest,
        Scope::Between => {}
    }
    check.account
}

const OVERFLOW: &str = "overflow";

struct Native<'a> {
    account: Account,
    truth: &'a [Told],
    /// What comes next.
    at: usize,
    /// The paths that the listener believes to be there.
    mirror: Option<BTreeSet<String>>,
    last: Option<Told>,
    /// The difference that is being told.
    run: Vec<&'a Told>,
    overflowed: bool,
}

impl<'a> Native<'a> {
    fn hear(&mut self, told: &'a Told, scope: Scope) {
        if told.kind == OVERFLOW {
            self.overflowed = true;
            // What it believes is known to be out of date.
            self.mirror = None;
            return;
        }
        if told.has(HEALED) {
            self.apply(told);
            self.run.push(told);
            return;
        }
        let truth = self.truth;
        let found = truth.partition_point(|it| it.seq < told.seq);
        let Some(committed) = truth.get(found).filter(|it| it.seq == told.seq) else {
            // The daemon may be killed between telling and our writing it down.
            if scope == Scope::Whole || truth.last().is_some_and(|it| told.seq < it.seq) {
                self.account
                    .complain(format!("told, but never committed: {told:?}"));
            }
            return;
        };
        if found < self.at {
            self.account
                .complain(format!("told twice or out of order: {told:?}"));
            return;
        }
        if !committed.says_the_same(told) {
            self.account
                .complain(format!("{told:?} is told of {committed:?}"));
        }
        self.gap(found);
        self.account.delivered += 1;
        self.at = found + 1;
        self.apply(told);
        self.last = Some(told.clone());
    }

    /// Accounts for what was committed before `until` and not told.
    fn gap(&mut self, until: usize) {
        self.end_run();
        let missing = self.truth.get(self.at..until).unwrap_or_default();
        for committed in missing {
            let repeats = |last: &Told| last.kind == "modified" && last.says_the_same(committed);
            if self.run.is_empty() && !self.overflowed && self.last.as_ref().is_some_and(repeats) {
                self.account.coalesced += 1;
            } else if !self.run.is_empty() {
                self.account.healed += 1;
            } else if self.overflowed {
                self.account.overflowed += 1;
            } else {
                self.account.unaccounted += 1;
                self.account.complain(format!("never told: {committed:?}"));
            }
        }
        self.at = self.at.max(until);
        self.run.clear();
        self.overflowed = false;
    }

    /// A difference is told: the listener must know the state at its end.
    fn end_run(&mut self) {
        let Some(end) = self.run.last().map(|it| it.seq) else {
            return;
        };
        let truth = self.truth;
        let known = truth.partition_point(|it| it.seq <= end);
        if let Some(mirror) = &self.mirror {
            let state = state(truth.get(..known).unwrap_or_default());
            if let Some(path) = state.symmetric_difference(mirror).next() {
                self.account
                    .complain(format!("after the difference at {end}: {path} differs"));
            }
            let named: HashSet<&str> = self
                .run
                .iter()
                .flat_map(|it| [it.path.as_str(), it.to.as_str()])
                .collect();
            for written in truth.get(self.at..known).unwrap_or_default() {
                let is_content = written.kind == "modified" && !written.has(ATTRIBUTES);
                if is_content
                    && state.contains(&written.path)
                    && !named.contains(written.path.as_str())
                    && is_last_of_path(written, truth.get(self.at..known).unwrap_or_default())
                {
                    self.account
                        .complain(format!("not in the difference: {written:?}"));
                }
            }
        }
    }

    fn apply(&mut self, told: &Told) {
        if let Some(mirror) = &mut self.mirror {
            apply(mirror, told);
        }
    }
}

/// Whether nothing happened later to the name that was written to.
fn is_last_of_path(written: &Told, all: &[Told]) -> bool {
    let names = |it: &&Told| it.path == written.path || it.to == written.path;
    all.iter()
        .rev()
        .find(names)
        .is_some_and(|it| it.seq == written.seq)
}

/// The paths that are there after these changes, beginning with none.
fn state(changes: &[Told]) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for change in changes {
        apply(&mut paths, change);
    }
    paths
}

fn apply(paths: &mut BTreeSet<String>, told: &Told) {
    match told.kind.as_str() {
        "created" => {
            paths.insert(told.path.clone());
        }
        "removed" => {
            paths.remove(&told.path);
        }
        "renamed" => {
            paths.remove(&told.path);
            paths.insert(told.to.clone());
        }
        _ => {}
    }
}

/// What an inotify program was told, against what was committed. Each event must come, in order, but
/// for one that repeats the last one that came, and for what a difference stands for.
pub(crate) fn inotify(truth: &[Told], heard: &[InotifyEvent], scope: Scope) -> Account {
    let mut account = Account::default();
    let (changes, expected): (Vec<usize>, Vec<InotifyEvent>) = truth
        .iter()
        .enumerate()
        .flat_map(|(at, told)| events(told).into_iter().map(move |event| (at, event)))
        .unzip();
    let mut heard = heard;
    // Where an overflow begins and ends nobody knows: what follows it is looked for.
    let mut is_lost = false;
    let mut last: Option<&InotifyEvent> = None;
    let mut fate: HashMap<usize, fn(&mut Account)> = HashMap::new();
    let mut at = 0;
    while let (Some(event), Some(change)) = (expected.get(at), changes.get(at)) {
        while let [first, rest @ ..] = heard
            && first.mask & IN_Q_OVERFLOW != 0
        {
            heard = rest;
            // The first words of a new daemon say so as well, when nothing is lost.
            is_lost = last.is_some();
        }
        at += 1;
        if let [first, rest @ ..] = heard
            && first == event
        {
            heard = rest;
            is_lost = false;
            last = Some(event);
            fate.entry(*change).or_insert(|it| it.delivered += 1);
        } else if is_lost {
            fate.insert(*change, |it| it.overflowed += 1);
        } else if last == Some(event) {
            fate.insert(*change, |it| it.coalesced += 1);
        } else if scope == Scope::UntilKilled && heard.is_empty() {
            fate.insert(*change, |it| it.died += 1);
        } else if let Some(found) =
            difference::at_start(expected.get(at - 1..).unwrap_or_default(), heard)
        {
            let end = at - 1 + found.stands_for;
            for change in changes.get(at - 1..end).unwrap_or_default() {
                fate.insert(*change, |it| it.healed += 1);
            }
            at = end;
            heard = heard.get(found.heard..).unwrap_or_default();
        } else if scope == Scope::UntilKilled && difference::may_be_cut(heard) {
            heard = &[];
            fate.insert(*change, |it| it.died += 1);
        } else {
            fate.insert(*change, |it| it.unaccounted += 1);
            account.complain(format!(
                "{event:?} does not come; next is {:?}",
                heard.first()
            ));
            // It would be said of all that follows.
            break;
        }
    }
    let mut rest = heard.iter();
    if let Some(event) = rest.find(|it| it.mask & IN_Q_OVERFLOW == 0)
        && scope == Scope::Whole
        && account.complaints.is_empty()
    {
        account.complain(format!(
            "told, but nothing like it was committed: {event:?}"
        ));
    }
    for count in fate.values() {
        count(&mut account);
    }
    // Of a snapshot inotify says nothing.
    account.delivered += truth.iter().filter(|it| events(it).is_empty()).count() as u64;
    account
}

const IN_Q_OVERFLOW: u32 = 0x4000;

/// What watches of the directories hear.
fn events(told: &Told) -> Vec<InotifyEvent> {
    let is_dir = if told.has(DIRECTORY) { 0x4000_0000 } else { 0 };
    let event = |path: &str, mask: u32| {
        let (dir, name) = path.trim_start_matches('/').split_once('/')?;
        Some(InotifyEvent {
            dir: dir.to_owned(),
            mask: mask | is_dir,
            name: name.to_owned(),
        })
    };
    let found = match told.kind.as_str() {
        "created" => [event(&told.path, 0x100), None],
        "removed" => [event(&told.path, 0x200), None],
        "modified" if told.has(ATTRIBUTES) => [event(&told.path, 0x4), None],
        "modified" => [event(&told.path, 0x2), None],
        "renamed" => [event(&told.path, 0x40), event(&told.to, 0x80)],
        _ => [None, None],
    };
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
