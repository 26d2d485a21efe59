//! The watcher programs, and what each of them prints.

use crate::notify_watch;

/// How a program gets to know of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Means {
    /// The program calls libc, which the preloaded library hooks.
    Inotify,
    /// The program gets the kernel's own events by echo, because no preloaded library reaches them.
    Fanotify,
    /// The program looks itself, because the file system is a remote one to it.
    Polling,
}

impl Means {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Fanotify => "fanotify (by echo)",
            Self::Polling => "polls on FUSE",
        }
    }
}

/// A program, how it is started and what it prints.
///
/// In the texts `{k}` stands for the number of the change, `{s}` for how many sentinels were changed,
/// this one included. No file is changed twice: some programs leave out what comes soon after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// The name in the table, by which the program is also selected.
    pub(crate) name: &'static str,
    /// The program that runs the script, and the script.
    pub(crate) command: &'static [&'static str],
    pub(crate) means: Means,
    /// Whether `cargo xtask compat` must install it first.
    pub(crate) installed: bool,
    /// The folder that is copied into the branch as `compiler`.
    pub(crate) carries: Option<&'static str>,
    /// The line by which the program says that it watches.
    pub(crate) ready: &'static str,
    /// A line counts only with one of these in it.
    pub(crate) counts: &'static [&'static str],
    /// The text that is appended to a sentinel.
    pub(crate) sentinel: &'static str,
    /// The lines that the program prints for change number `k`, which is a change of `file{k}.ts`.
    pub(crate) heard: &'static [&'static str],
    /// The lines that the program prints for a change of a sentinel.
    pub(crate) sentinel_heard: &'static [&'static str],
    /// A part of the line by which the program reports a file that a restored snapshot changed.
    pub(crate) restored: &'static str,
    /// What the program shows of a writer's steps.
    pub(crate) steps: &'static str,
}

/// A program that names the file once for each change.
const PLAIN: Program = Program {
    name: "",
    command: &[],
    means: Means::Inotify,
    installed: true,
    carries: None,
    ready: "ready",
    counts: &["file", "sentinel"],
    sentinel: "// sentinel {s}",
    heard: &["file{k}.ts"],
    sentinel_heard: &["sentinel{s}.ts"],
    restored: "restored.ts",
    steps: "",
};

const OPEN_TO_CLOSE: &str = "open, modify, close";

/// What the programs of inotify-tools have in common.
const TOOLS: Program = Program {
    installed: false,
    ready: "Watches established",
    counts: &[" file", " sentinel"],
    heard: &[
        "OPEN file{k}.ts",
        "MODIFY file{k}.ts",
        "CLOSE_WRITE,CLOSE file{k}.ts",
    ],
    sentinel_heard: &[
        "OPEN sentinel{s}.ts",
        "MODIFY sentinel{s}.ts",
        "CLOSE_WRITE,CLOSE sentinel{s}.ts",
    ],
    steps: OPEN_TO_CLOSE,
    ..PLAIN
};

pub(crate) const PROGRAMS: &[Program] = &[
    Program {
        name: "inotifywait -m -r",
        command: &["sh", "inotifywait.sh"],
        ..TOOLS
    },
    Program {
        name: "fsnotifywait -m -r",
        command: &["sh", "fsnotifywait.sh"],
        means: Means::Fanotify,
        heard: &["CLOSE_WRITE,CLOSE file{k}.ts"],
        sentinel_heard: &["CLOSE_WRITE,CLOSE sentinel{s}.ts"],
        steps: "",
        ..TOOLS
    },
    Program {
        name: "tail -F",
        command: &["sh", "tail.sh"],
        means: Means::Polling,
        installed: false,
        ready: "// last",
        counts: &["// "],
        heard: &["// change {k}"],
        sentinel_heard: &["// sentinel {s}"],
        restored: "file truncated",
        ..PLAIN
    },
    Program {
        name: "entr",
        command: &["sh", "entr.sh"],
        installed: false,
        ready: "ran for",
        counts: &["ran for"],
        heard: &["ran for * file{k}.ts"],
        sentinel_heard: &["ran for * sentinel{s}.ts"],
        // The program names only the first of the files that changed at once.
        restored: "ran for",
        ..PLAIN
    },
    Program {
        name: "Rust notify 8",
        command: &[notify_watch::ARGUMENT],
        installed: false,
        heard: &[
            "Access(Open(Any)) * file{k}.ts",
            "Modify(Data(Any)) * file{k}.ts",
            "Access(Close(Write)) * file{k}.ts",
        ],
        sentinel_heard: &[
            "Access(Open(Any)) * sentinel{s}.ts",
            "Modify(Data(Any)) * sentinel{s}.ts",
            "Access(Close(Write)) * sentinel{s}.ts",
        ],
        steps: OPEN_TO_CLOSE,
        ..PLAIN
    },
    Program {
        name: "Node fs.watch",
        command: &["node", "node.mjs"],
        heard: &["change file{k}.ts"],
        ..PLAIN
    },
    Program {
        name: "chokidar 4",
        command: &["node", "chokidar.mjs"],
        heard: &["change file{k}.ts"],
        ..PLAIN
    },
    Program {
        name: "webpack 5 watch",
        command: &["node", "webpack.mjs"],
        ready: "built",
        counts: &["changed", "built"],
        heard: &["changed * file{k}.ts", "built"],
        sentinel_heard: &["changed * sentinel{s}.ts", "built"],
        ..PLAIN
    },
    Program {
        name: "Vite 8 dev server",
        command: &["node", "vite-dev.mjs"],
        counts: &["update"],
        heard: &["update * file{k}.ts"],
        sentinel_heard: &["update * sentinel{s}.ts"],
        ..PLAIN
    },
    Program {
        name: "Vite 8 build --watch",
        command: &["node", "vite-build.mjs"],
        ready: "built",
        counts: &["update", "built"],
        heard: &["update * file{k}.ts", "built"],
        sentinel_heard: &["update * sentinel{s}.ts", "built"],
        ..PLAIN
    },
    Program {
        name: "tsc 7 --watch",
        command: &["sh", "tsc.sh"],
        means: Means::Fanotify,
        carries: Some("node_modules/@typescript/typescript-linux-x64"),
        ready: "Found 0 errors",
        counts: &["Found"],
        sentinel: "const wrong{s}: string = {s};",
        heard: &["Found"],
        sentinel_heard: &["Found {s} error"],
        restored: "Found 0 errors",
        ..PLAIN
    },
    Program {
        name: "Python watchdog 7",
        command: &["python", "on_watchdog.py"],
        heard: &[
            "opened * file{k}.ts",
            "modified * file{k}.ts",
            "closed * file{k}.ts",
        ],
        sentinel_heard: &[
            "opened * sentinel{s}.ts",
            "modified * sentinel{s}.ts",
            "closed * sentinel{s}.ts",
        ],
        steps: OPEN_TO_CLOSE,
        ..PLAIN
    },
    Program {
        name: "Python watchfiles 1",
        command: &["python", "on_watchfiles.py"],
        heard: &["modified * file{k}.ts"],
        ..PLAIN
    },
    Program {
        name: "Python inotify_simple 2",
        command: &["python", "on_inotify_simple.py"],
        heard: &[
            "OPEN file{k}.ts",
            "MODIFY file{k}.ts",
            "CLOSE_WRITE file{k}.ts",
        ],
        sentinel_heard: &[
            "OPEN sentinel{s}.ts",
            "MODIFY sentinel{s}.ts",
            "CLOSE_WRITE sentinel{s}.ts",
        ],
        steps: OPEN_TO_CLOSE,
        ..PLAIN
    },
    Program {
        name: "Ruby listen 3",
        command: &["ruby", "listen.rb"],
        heard: &["modified * file{k}.ts"],
        ..PLAIN
    },
    Program {
        name: "Java WatchService",
        command: &["java", "Watch.java"],
        heard: &["ENTRY_MODIFY file{k}.ts"],
        ..PLAIN
    },
];
