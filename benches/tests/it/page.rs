//! The page in a browser.

use std::path::Path;
use std::process::Command;

use agentfs_testkit::environment::can_mount;
use tempfile::TempDir;

use crate::support::{run, said};

/// Set to leave out, loudly, what needs a browser.
const SKIP: &str = "AGENTFS_SKIP_BROWSER_TESTS";

const BROWSERS: [&str; 4] = [
    "chromium-headless-shell",
    "chromium",
    "google-chrome",
    "chrome",
];

/// A browser, or nothing when it is left out.
fn browser() -> Option<&'static str> {
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let found = BROWSERS.into_iter().find(works);
    if found.is_none() {
        assert!(
            std::env::var_os(SKIP).is_some_and(|it| !it.is_empty()),
            "the page is shown in a browser: run `apt-get install --no-install-recommends \
             chromium-headless-shell`, or set {SKIP}=1 to leave it out"
        );
        eprintln!("LEFT OUT ({SKIP} is set): the page is not opened in a browser");
    }
    found
}

/// What the browser makes of a page, after its scripts.
fn shown(browser: &str, page: &Path) -> String {
    let profile = TempDir::new().unwrap();
    let profile = format!("--user-data-dir={}", profile.path().display());
    let page = format!("file://{}", page.display());
    let options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"];
    said(browser, &[&options[..], &[&profile, &page]].concat())
}

/// Looks at every plot: its size on the page, how many lines it has that are drawn somewhere, and
/// how many of its words take up room.
const LOOK: &str = "<script>
const out = document.createElement('pre');
for (const figure of document.querySelectorAll('figure')) {
  const box = figure.querySelector('svg').getBoundingClientRect();
  const lines = [...figure.querySelectorAll('polyline')].filter(it => it.getTotalLength() > 5);
  const words = [...figure.querySelectorAll('text')].filter(it => it.getBBox().width > 0);
  out.textContent += `plot ${figure.id} ${box.width > 300 && box.height > 200} ${lines.length} ${words.length}\\n`;
}
const cells = [...document.querySelectorAll('td')].filter(it => it.offsetHeight > 0);
out.textContent += `cells ${cells.length}\\n`;
out.textContent += `requests ${performance.getEntriesByType('resource').length}\\n`;
document.body.append(out);
</script>";

#[test]
fn page_shows_every_plot_and_loads_nothing() {
    let Some(browser) = browser().filter(|_| can_mount()) else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let page = directory.path().join("report.html");
    let (page_text, plots) = (page.to_str().unwrap(), directory.path().join("plots"));
    let plots = plots.to_str().unwrap();
    let parts = [
        "burst --changes 2000 --files 1,500 --watchers 1,2 --rounds 1",
        "latency --samples 60",
        "scale --max-watches 1000 --max-sessions 10 --changes 1000",
    ];
    let expected: [&[(&str, usize)]; 3] = [
        &[("burst-1", 4), ("burst-500", 4)],
        &[("latency", 4)],
        &[
            ("scale-change", 2),
            ("scale-register", 2),
            ("scale-sessions", 2),
        ],
    ];
    for (part, expected) in parts.into_iter().zip(expected) {
        let mut arguments: Vec<&str> = part.split(' ').collect();
        arguments.extend(["--html", page_text, "--plots", plots]);
        run(&arguments);
        let text = std::fs::read_to_string(&page).unwrap();
        std::fs::write(&page, text.replace("</body>", &format!("{LOOK}</body>"))).unwrap();
        let dom = shown(browser, &page);
        for (name, lines) in expected {
            let found = dom.lines().find_map(|line| {
                let rest = line.rsplit_once("plot ")?.1;
                rest.strip_prefix(name)?
                    .strip_prefix(' ')
                    .map(str::to_owned)
            });
            let found = found.unwrap_or_else(|| panic!("{name} is not on the page: {dom}"));
            let (is_large, counts) = found.split_once(' ').unwrap();
            let (drawn, words) = counts.split_once(' ').unwrap();
            assert_eq!(is_large, "true", "{name}");
            // The axes are lines as well.
            assert!(drawn.parse::<usize>().unwrap() >= *lines, "{name}: {found}");
            assert!(words.parse::<usize>().unwrap() > 8, "{name}: {found}");
            let svg = std::fs::read_to_string(format!("{plots}/{name}.svg")).unwrap();
            assert!(svg.starts_with("<svg"), "{name}");
        }
        assert!(!dom.contains("cells 0"), "the tables are empty: {dom}");
        assert!(
            dom.contains("requests 0"),
            "the page loads something: {dom}"
        );
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let commands = [
        "ring", "fscore", "route", "mount", "hook", "burst", "latency", "scale", "report",
    ];
    for command in commands {
        let help = run(&[command, "--help"]);
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(
            help.contains(&format!("  agentfs-bench {command}")),
            "{command}: {help}"
        );
    }
}
