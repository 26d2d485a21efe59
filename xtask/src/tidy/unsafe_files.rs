//! The audit list: the only files that may use `unsafe`, and why each must.

use super::Source;

/// A file, or a folder with everything below it, and the reason.
const LIST: &[(&str, &str)] = &[
    ("ring/src/region/", "offsets of a mapping become references"),
    (
        "ring/src/requests/mapped.rs",
        "offsets of a mapping become references",
    ),
    (
        "ring/src/requests/model.rs",
        "loom's cells check what Sync promises",
    ),
    ("cli/src/heap.rs", "calls mallopt"),
    (
        "loom-tests/src/side/native.rs",
        "shares counters between processes",
    ),
    (
        "interpose/src/hooks/",
        "functions of the C ABI that programs call",
    ),
    ("interpose/src/config.rs", "walks the C environment"),
    (
        "interpose/src/guard.rs",
        "errno is reached through a pointer",
    ),
    ("interpose/src/fork.rs", "a handler of fork"),
    (
        "interpose/src/process.rs",
        "asks libc for the name of the thread",
    ),
    ("interpose/src/platform/", "asks libc where errno is"),
    (
        "interpose/src/hidden_fd.rs",
        "borrows a descriptor that was checked",
    ),
    ("interpose/src/lock.rs", "lends out what the lock protects"),
    (
        "interpose/src/mounts/linux.rs",
        "looks at a path that the kernel has not checked yet",
    ),
    (
        "interpose/src/real.rs",
        "looks up and calls functions of libc",
    ),
    (
        "interpose/src/inotify/event.rs",
        "reads what the kernel wrote into the program's buffer",
    ),
    (
        "interpose/src/inotify/hidden_watch.rs",
        "an ioctl that has no wrapper",
    ),
    (
        "interpose/src/inotify/instance.rs",
        "follows an address to memory that is never freed",
    ),
    (
        "interpose/src/inotify/mod.rs",
        "works on the buffers of the program",
    ),
    (
        "interpose/src/inotify/shared.rs",
        "lays atomics over mapped memory",
    ),
    (
        "interpose/src/kqueue/engine.rs",
        "descriptor numbers come from the program",
    ),
    (
        "interpose/src/kqueue/hooks.rs",
        "C functions with C pointers",
    ),
    (
        "interpose/src/kqueue/kernel.rs",
        "the program's buffers and the real calls are raw pointers",
    ),
    (
        "interpose/src/kqueue/linux.rs",
        "symbols of other libraries, and C names for ours",
    ),
    (
        "interpose/src/kqueue/macos.rs",
        "the functions of libSystem, and the table that dyld reads",
    ),
    (
        "interpose/src/kqueue/hidden_knotes.rs",
        "gives up a descriptor without closing it through the hook",
    ),
    (
        "fscore/src/disk/mapping/linux.rs",
        "writes to mapped files, and handles the signal by which the kernel refuses a page",
    ),
    ("benches/", "forks, and calls what has no wrapper"),
];

/// Reports a file that opts in to `unsafe` and is not on the list.
pub(super) fn listed(source: &Source) -> Option<String> {
    let allowed = LIST.iter().any(|(place, _)| covers(place, &source.path));
    (uses_unsafe(source) && !allowed && is_audited(&source.path)).then(|| {
        format!(
            "{}: uses unsafe, but is not in the audit list: move it behind a safe function of a \
             file that is, or add it to xtask/src/tidy/unsafe_files.rs with the reason",
            source.path
        )
    })
}

/// Reports what is on the list and does not need `unsafe` any more.
pub(super) fn needed(sources: &[Source]) -> Vec<String> {
    LIST.iter()
        .filter(|(place, _)| {
            !sources
                .iter()
                .any(|source| covers(place, &source.path) && uses_unsafe(source))
        })
        .map(|(place, _)| {
            format!("{place}: on the audit list of xtask/src/tidy/unsafe_files.rs, but safe: drop it there")
        })
        .collect()
}

/// Returns whether a file is shipped. Tests, the kqueue for tests, and this program are not.
fn is_audited(path: &str) -> bool {
    path.contains("/src/") && !path.starts_with("testkq/") && !path.starts_with("xtask/")
}

fn covers(place: &str, path: &str) -> bool {
    place == path || (place.ends_with('/') && path.starts_with(place))
}

/// Returns whether a file opts in to `unsafe`, which the workspace denies, by a lint expectation.
fn uses_unsafe(source: &Source) -> bool {
    let text = &source.text;
    ["expect(", "allow("].iter().any(|attribute| {
        text.match_indices(attribute).any(|(at, _)| {
            text[at + attribute.len()..]
                .trim_start()
                .starts_with("unsafe_code")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn opting_in_is_seen_however_it_is_formatted() {
        assert!(uses_unsafe(&source(
            "a.rs",
            "#![expect(\n    unsafe_code,\n reason = \"\")]"
        )));
        assert!(uses_unsafe(&source("a.rs", "#[expect(unsafe_code)]")));
        assert!(!uses_unsafe(&source("a.rs", "#![forbid(unsafe_code)]")));
    }

    #[test]
    fn file_beside_a_listed_one_is_refused() {
        let opted_in = "#![expect(unsafe_code)]";
        assert!(listed(&source("ring/src/position.rs", opted_in)).is_some());
        assert!(listed(&source("ring/src/region/mapped.rs", opted_in)).is_none());
    }
}
