//! Finds the differences in what an inotify program read. Differences are not marked there: the
//! events stop being those that were committed, and some events later are so again.

use std::collections::HashMap;

use crate::truth::InotifyEvent;

/// A difference of the soak's few names takes fewer events than this.
const LONGEST: usize = 1024;
/// A difference stands for at least so many changes, because it begins in the midst of a burst,
/// when very many records wait.
const SHORTEST: usize = 100;
/// So many events in a row that agree are no accident.
const SURE: usize = 24;

const CREATED: u32 = 0x100;
const MADE: u32 = CREATED | 0x80;
const GONE: u32 = 0x200 | 0x40;
const MODIFY: u32 = 0x2;

/// How many events a difference takes, and how many it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Difference {
    pub(crate) heard: usize,
    pub(crate) stands_for: usize,
}

/// Returns the difference at the beginning of both, if there is one that says enough.
pub(crate) fn at_start(expected: &[InotifyEvent], heard: &[InotifyEvent]) -> Option<Difference> {
    (0..heard.len().min(LONGEST)).find_map(|delivered| {
        let (delivered, rest) = heard.split_at_checked(delivered)?;
        let end = (SHORTEST..expected.len()).find(|at| agrees(expected.get(*at..), rest))?;
        says_enough(expected.get(..end)?, delivered).then_some(Difference {
            heard: delivered.len(),
            stands_for: end,
        })
    })
}

/// Returns whether a program that is killed with its daemon could have been in the midst of a
/// difference.
pub(crate) fn may_be_cut(heard: &[InotifyEvent]) -> bool {
    heard.len() < LONGEST
}

fn agrees(expected: Option<&[InotifyEvent]>, heard: &[InotifyEvent]) -> bool {
    let mut expected = expected.unwrap_or_default().iter();
    let mut last = None;
    heard.iter().take(SURE).all(|wanted| {
        let next = expected.find(|it| *it == wanted || last != Some(*it));
        last = next;
        next == Some(wanted)
    })
}

/// Returns whether the delivered events say of each skipped name what a program has to know: that the name
/// is there, that it is gone, or that its content is another.
fn says_enough(skipped: &[InotifyEvent], delivered: &[InotifyEvent]) -> bool {
    #[derive(Default)]
    struct Name {
        first: u32,
        last: u32,
        is_written: bool,
    }
    let mut names: HashMap<(&str, &str), Name> = HashMap::new();
    for event in skipped {
        let name = names.entry((&event.dir, &event.name)).or_default();
        name.is_written |= event.mask & MODIFY != 0;
        if event.mask & (MADE | GONE) != 0 {
            if name.first == 0 {
                name.first = event.mask;
            }
            name.last = event.mask;
        }
    }
    names.iter().all(|((dir, file), name)| {
        let says = |mask| {
            let mut of_it = delivered
                .iter()
                .filter(|it| it.dir == *dir && it.name == *file);
            of_it.any(|it| it.mask & mask != 0)
        };
        if name.last & GONE != 0 {
            // The name was created and removed meanwhile, so there is nothing to report.
            name.first & GONE == 0 || says(GONE)
        } else if name.first & CREATED != 0 {
            says(MADE)
        } else if name.last & MADE != 0 {
            says(u32::MAX)
        } else {
            !name.is_written || says(u32::MAX)
        }
    })
}
