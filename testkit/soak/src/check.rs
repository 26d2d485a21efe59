//! Accounts for every change: it was delivered, or an unread event already reported it, or it was
//! part of a difference that was delivered instead, or it was counted in an overflow.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use crate::difference;
use crate::truth::{ATTRIBUTES, DIRECTORY, HEALED, InotifyEvent, LoggedChange};

/// How the changes are accounted for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct Account {
    /// The number of changes that were delivered one by one.
    pub(crate) delivered: u64,
    /// The number of changes that an unread event already reported.
    pub(crate) coalesced: u64,
    /// The number of changes that were delivered as part of a difference between two states.
    pub(crate) healed: u64,
    /// The number of changes that were committed before an overflow that was delivered.
    pub(crate) overflowed: u64,
    /// The number of changes that were committed after the last delivery of a daemon that was
    /// killed, whose end the listener noticed.
    pub(crate) died: u64,
    /// The number of changes to which none of that applies.
    pub(crate) unaccounted: u64,
    /// The first few events that were delivered and are not true, or are missing.
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
    /// All changes.
    Whole,
    /// All changes up to the last that was delivered to the listener: then the daemon was killed.
    UntilKilled,
    /// The changes between the first and the last that were delivered to the listener: it came late
    /// and was killed.
    Between,
}

/// Compares what was delivered to a native subscriber with what was committed.
pub(crate) fn native(truth: &[LoggedChange], heard: &[LoggedChange], scope: Scope) -> Account {
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
    for change in heard {
        check.hear(change, scope);
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
    truth: &'a [LoggedChange],
    /// The index of the change that comes next.
    at: usize,
    /// The paths that the listener believes to be there.
    mirror: Option<BTreeSet<String>>,
    last: Option<LoggedChange>,
    /// The difference that is being delivered.
    run: Vec<&'a LoggedChange>,
    overflowed: bool,
}

impl<'a> Native<'a> {
    fn hear(&mut self, change: &'a LoggedChange, scope: Scope) {
        if change.kind == OVERFLOW {
            self.overflowed = true;
            // The paths that the listener believes to be there are known to be out of date.
            self.mirror = None;
            return;
        }
        if change.has(HEALED) {
            self.apply(change);
            self.run.push(change);
            return;
        }
        let truth = self.truth;
        let found = truth.partition_point(|it| it.seq < change.seq);
        let Some(committed) = truth.get(found).filter(|it| it.seq == change.seq) else {
            // The daemon may be killed after a change is delivered and before the soak has recorded
            // it.
            if scope == Scope::Whole || truth.last().is_some_and(|it| change.seq < it.seq) {
                self.account
                    .complain(format!("delivered, but never committed: {change:?}"));
            }
            return;
        };
        if found < self.at {
            self.account
                .complain(format!("delivered twice or out of order: {change:?}"));
            return;
        }
        if !committed.says_the_same(change) {
            self.account
                .complain(format!("{change:?} is delivered for {committed:?}"));
        }
        self.gap(found);
        self.account.delivered += 1;
        self.at = found + 1;
        self.apply(change);
        self.last = Some(change.clone());
    }

    /// Accounts for what was committed before `until` and not delivered.
    fn gap(&mut self, until: usize) {
        self.end_run();
        let missing = self.truth.get(self.at..until).unwrap_or_default();
        for committed in missing {
            let repeats =
                |last: &LoggedChange| last.kind == "modified" && last.says_the_same(committed);
            if self.run.is_empty() && !self.overflowed && self.last.as_ref().is_some_and(repeats) {
                self.account.coalesced += 1;
            } else if !self.run.is_empty() {
                self.account.healed += 1;
            } else if self.overflowed {
                self.account.overflowed += 1;
            } else {
                self.account.unaccounted += 1;
                self.account
                    .complain(format!("never delivered: {committed:?}"));
            }
        }
        self.at = self.at.max(until);
        self.run.clear();
        self.overflowed = false;
    }

    /// Ends a run that is a difference: the listener must know the state at its end.
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

    fn apply(&mut self, change: &LoggedChange) {
        if let Some(mirror) = &mut self.mirror {
            apply(mirror, change);
        }
    }
}

/// Returns whether nothing happened later to the name that was written to.
fn is_last_of_path(written: &LoggedChange, all: &[LoggedChange]) -> bool {
    let names = |it: &&LoggedChange| it.path == written.path || it.to == written.path;
    all.iter()
        .rev()
        .find(names)
        .is_some_and(|it| it.seq == written.seq)
}

/// Returns the paths that are there after these changes, beginning with none.
fn state(changes: &[LoggedChange]) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for change in changes {
        apply(&mut paths, change);
    }
    paths
}

fn apply(paths: &mut BTreeSet<String>, change: &LoggedChange) {
    match change.kind.as_str() {
        "created" => {
            paths.insert(change.path.clone());
        }
        "removed" => {
            paths.remove(&change.path);
        }
        "renamed" => {
            paths.remove(&change.path);
            paths.insert(change.to.clone());
        }
        _ => {}
    }
}

/// Compares what an inotify program read with what was committed. Each event must come, in order, but
/// for one that repeats the last one that came, and for what a difference stands for.
pub(crate) fn inotify(truth: &[LoggedChange], heard: &[InotifyEvent], scope: Scope) -> Account {
    let mut account = Account::default();
    let (changes, expected): (Vec<usize>, Vec<InotifyEvent>) = truth
        .iter()
        .enumerate()
        .flat_map(|(at, change)| events(change).into_iter().map(move |event| (at, event)))
        .unzip();
    let mut heard = heard;
    // It is not known where an overflow begins and ends: what follows the overflow is looked for.
    let mut is_lost = false;
    let mut last: Option<&InotifyEvent> = None;
    let mut fate: HashMap<usize, fn(&mut Account)> = HashMap::new();
    let mut at = 0;
    while let (Some(event), Some(change)) = (expected.get(at), changes.get(at)) {
        while let [first, rest @ ..] = heard
            && first.mask & IN_Q_OVERFLOW != 0
        {
            heard = rest;
            // A new daemon begins with an overflow as well, when nothing is lost.
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
            // All following events would cause the same complaint.
            break;
        }
    }
    let mut rest = heard.iter();
    if let Some(event) = rest.find(|it| it.mask & IN_Q_OVERFLOW == 0)
        && scope == Scope::Whole
        && account.complaints.is_empty()
    {
        account.complain(format!(
            "delivered, but nothing like it was committed: {event:?}"
        ));
    }
    for count in fate.values() {
        count(&mut account);
    }
    // inotify does not report a snapshot.
    account.delivered += truth.iter().filter(|it| events(it).is_empty()).count() as u64;
    account
}

const IN_Q_OVERFLOW: u32 = 0x4000;

/// Returns what watches of the directories hear.
fn events(change: &LoggedChange) -> Vec<InotifyEvent> {
    let is_dir = if change.has(DIRECTORY) {
        0x4000_0000
    } else {
        0
    };
    let event = |path: &str, mask: u32| {
        let (dir, name) = path.trim_start_matches('/').split_once('/')?;
        Some(InotifyEvent {
            dir: dir.to_owned(),
            mask: mask | is_dir,
            name: name.to_owned(),
        })
    };
    let found = match change.kind.as_str() {
        "created" => [event(&change.path, 0x100), None],
        "removed" => [event(&change.path, 0x200), None],
        "modified" if change.has(ATTRIBUTES) => [event(&change.path, 0x4), None],
        "modified" => [event(&change.path, 0x2), None],
        "renamed" => [event(&change.path, 0x40), event(&change.to, 0x80)],
        _ => [None, None],
    };
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
