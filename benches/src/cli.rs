//! The command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;
use crate::report::Findings;
use crate::{burst, fscore, hook, latency, mount, report, ring, route, scale, watcher};

/// Measures what a change costs on this machine, beside others that do the same
///
/// ring, fscore, route, mount and hook measure one stage each; burst, latency and scale measure a
/// change on its whole way to programs in processes of their own, for which a branch is mounted.
/// Tables go to the standard output, progress to the standard error. Let nothing else run meanwhile.
#[derive(Debug, Parser)]
#[command(name = "agentfs-bench", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  agentfs-bench report --html report.html      a short run of everything, as one page with plots
  agentfs-bench burst                          100,000 changes at once
  agentfs-bench latency --plots plots          from a change to the program, with its distribution
  agentfs-bench scale --max-watches 1000000    what a watch costs among many
  agentfs-bench ring                           the ring alone, beside rtrb, a pipe and a socket";

#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    /// Print the goals that the command states, full size, and measure nothing
    #[arg(long, global = true)]
    list_goals: bool,
    /// Write a page with tables and plots, which needs nothing else to be shown
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the plots into this directory, as SVG
    #[arg(long, global = true, value_name = "DIR")]
    plots: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Measure(Measure),
    #[command(hide = true)]
    MountServer(mount::server::Args),
    #[command(hide = true)]
    HookProgram(hook::measured_program::Args),
    #[command(hide = true)]
    Watch(watcher::Args),
}

#[derive(Debug, Subcommand)]
enum Measure {
    Ring(ring::Args),
    Fscore(fscore::Args),
    Route(route::Args),
    Mount(mount::Args),
    Hook(hook::Args),
    Burst(burst::Args),
    Latency(latency::Args),
    Scale(scale::Args),
    /// A short run of burst, latency and scale: a minute or two
    #[command(after_help = "Example:\n  agentfs-bench report --html report.html")]
    Report,
}

impl Measure {
    fn is_of_one_stage(&self) -> bool {
        match self {
            Self::Ring(_) | Self::Fscore(_) | Self::Route(_) | Self::Mount(_) | Self::Hook(_) => {
                true
            }
            Self::Burst(_) | Self::Latency(_) | Self::Scale(_) | Self::Report => false,
        }
    }
}

/// Bars on the standard error, if that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress;

impl Progress {
    pub(crate) fn bar(&self, what: &'static str, steps: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{prefix:>8} [{bar:30}] {pos}/{len} {elapsed_precise} {msg}",
        );
        let bar = ProgressBar::new(steps).with_prefix(what);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }
}

/// Carries out the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let result = match command {
        Command::MountServer(args) => mount::server::run(&args),
        Command::HookProgram(args) => hook::measured_program::run(&args),
        Command::Watch(args) => watcher::run(&args),
        Command::Measure(what) if common.list_goals => list_goals(&common, &what),
        Command::Measure(what) => measure(&common, &what),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _written = writeln!(std::io::stderr(), "agentfs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(common: &Common, what: &Measure) -> Result<(), Failure> {
    if !what.is_of_one_stage() {
        raise_descriptor_limit();
    }
    let progress = Progress;
    let parts = match what {
        Measure::Ring(args) => vec![ring::run(args)?],
        Measure::Fscore(args) => vec![fscore::run(args)?],
        Measure::Route(args) => vec![route::run(args)?],
        Measure::Mount(args) => vec![mount::run(args)?],
        Measure::Hook(args) => vec![hook::run(args)?],
        Measure::Burst(args) => vec![burst::run(args, &progress)?],
        Measure::Latency(args) => vec![latency::run(args, &progress)?],
        Measure::Scale(args) => vec![scale::run(args, &progress)?],
        Measure::Report => vec![
            burst::run(&burst::Args::quick(), &progress)?,
            latency::run(&latency::Args::quick(), &progress)?,
            scale::run(&scale::Args::quick(), &progress)?,
        ],
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let command: Vec<String> = std::env::args().skip(1).collect();
    let findings = Findings {
        machine: report::machine(),
        command: format!("agentfs-bench {}", command.join(" ")),
        time: since.unwrap_or_default().as_secs(),
        parts,
    };
    show(common, &findings)
}

fn list_goals(common: &Common, what: &Measure) -> Result<(), Failure> {
    let goals = match what {
        Measure::Ring(_) => ring::goals(),
        Measure::Fscore(_) => fscore::goals()?,
        Measure::Route(_) => route::goals()?,
        Measure::Mount(args) => mount::goals(args),
        Measure::Hook(_) => hook::goals()?,
        Measure::Burst(args) => burst::goals(args),
        Measure::Latency(args) => latency::goals(args)?,
        Measure::Scale(_) | Measure::Report => Vec::new(),
    };
    Ok(report::print_goals(&goals, common.json)?)
}

fn show(common: &Common, findings: &Findings) -> Result<(), Failure> {
    if let Some(directory) = &common.plots {
        std::fs::create_dir_all(directory)?;
        for plot in findings.parts.iter().flat_map(|part| &part.plots) {
            let path = directory.join(format!("{}.svg", plot.name));
            std::fs::write(path, report::svg(plot)?)?;
        }
    }
    if let Some(path) = &common.html {
        std::fs::write(path, report::html(findings)?)?;
    }
    Ok(report::print(findings, common.json)?)
}

/// Raises the limit of descriptors: every watcher takes some, and the usual soft limit is far below the
/// hard one.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What is measured says so if that is not enough.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
