//! What memscan can be asked. Help, manual and completions come from here.

use crate::texts;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pageherd::cli::args::{ScanArgs, TableArgs, TargetArgs};
use pageherd::cli::size;
use std::path::PathBuf;

/// Show which memory virtual machines share: with whom, through what, why not, and what a move
/// would cost
#[derive(Parser, Debug)]
#[command(
    name = "memscan",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    max_term_width = 100,
    long_about = texts::MEMSCAN.about,
    after_help = "A TARGET is [NAME=]pid:N, comm:GLOB, cgroup:PATH, image:PATH or \
herd:DIR/VM. Without a subcommand memscan shows the summary. It needs root and changes nothing; 'memscan --help' tells more.",
    after_long_help = texts::MEMSCAN.help()
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) summary: SummaryArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// A row a VM: resident, unique and shared memory by mechanism; footprint and expansion
    #[command(long_about = texts::SUMMARY.about, after_long_help = texts::SUMMARY.help())]
    Summary(SummaryArgs),
    /// Memory shared by each pair of VMs, and by each set of them
    #[command(long_about = texts::MATRIX.about, after_long_help = texts::MATRIX.help())]
    Matrix(MatrixArgs),
    /// Forecast what a move costs: growth there, gain here, bytes to send
    #[command(long_about = texts::WHAT_IF.about, after_long_help = texts::WHAT_IF.help())]
    WhatIf(WhatIfArgs),
    /// Why pages with equal content are not shared, and what to change
    #[command(long_about = texts::WHY.about, after_long_help = texts::WHY.help())]
    Why(WhyArgs),
    /// KSM's state, settings, progress and profit
    #[command(long_about = texts::KSM.about, after_long_help = texts::KSM.help())]
    Ksm(KsmArgs),
    /// Each page's facts, as lines for a pipe
    #[command(long_about = texts::MAP.about, after_long_help = texts::MAP.help())]
    Map(MapArgs),
    /// Record a scan in a file, to compare it later
    #[command(long_about = texts::RECORD.about, after_long_help = texts::RECORD.help())]
    Record(RecordArgs),
    /// Compare two records: which sharing was lost, and why the footprint grew
    #[command(long_about = texts::DIFF.about, after_long_help = texts::DIFF.help())]
    Diff(DiffArgs),
    /// Watch sharing over time; a time series at the end
    #[command(long_about = texts::WATCH.about, after_long_help = texts::WATCH.help())]
    Watch(WatchArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SummaryArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) table: TableArgs,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}

#[derive(Args, Debug)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Show the sets of two and more VMs that share frames, and how many
    #[arg(long)]
    pub(crate) groups: bool,
    /// Show one mechanism only: ksm, fork, file, shmem or zero
    #[arg(long, value_name = "MECHANISM", value_parser = ["ksm", "fork", "file", "shmem", "zero"])]
    pub(crate) by: Option<String>,
    /// Write a heat map; - for standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) table: PlainTableArgs,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}

/// Tables whose columns are the VMs themselves.
#[derive(Args, Debug)]
pub(crate) struct PlainTableArgs {
    /// Leave the heading out
    #[arg(short, long, help_heading = "Output")]
    pub(crate) noheadings: bool,
    /// Sizes in bytes instead of K, M, G
    #[arg(short, long, help_heading = "Output")]
    pub(crate) bytes: bool,
    /// When to use colour
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub(crate) color: pageherd::cli::args::Color,
}

#[derive(Args, Debug)]
pub(crate) struct WhatIfArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// A VM that leaves, by name; may be given several times. Without it, each alone
    #[arg(long, value_name = "NAME")]
    pub(crate) leave: Vec<String>,
    /// A template file that the destination has: its pages are neither sent nor cost memory there
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) table: TableArgs,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Read the content of at most about this much memory; of more, evenly spread pages
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size::parse)]
    pub(crate) read: u64,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Sizes in bytes instead of K, M, G
    #[arg(short, long, help_heading = "Output")]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}

#[derive(Args, Debug)]
pub(crate) struct KsmArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) table: TableArgs,
}

/// How `map` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum MapFormat {
    /// Columns with tabs between, and a heading.
    #[default]
    Tsv,
    /// A JSON object a line.
    Jsonl,
    /// The placement map: binary, described in FORMAT.md.
    Placement,
}

#[derive(Args, Debug)]
pub(crate) struct MapArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "tsv", help_heading = "Output")]
    pub(crate) format: MapFormat,
    /// JSON lines; the same as --format jsonl
    #[arg(long, help_heading = "Output", conflicts_with = "format")]
    pub(crate) json: bool,
    /// Where to write it
    #[arg(short, long, value_name = "FILE", default_value = "-", help_heading = "Output")]
    pub(crate) output: PathBuf,
    /// Leave the heading of TSV out
    #[arg(short, long, help_heading = "Output")]
    pub(crate) noheadings: bool,
    /// Tell of absent pages too
    #[arg(long)]
    pub(crate) absent: bool,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Where to write the record; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// The earlier record; - for standard input
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// The later record; - for standard input
    #[arg(value_name = "AFTER")]
    pub(crate) after: PathBuf,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Sizes in bytes instead of K, M, G
    #[arg(short, long, help_heading = "Output")]
    pub(crate) bytes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Seconds between scans
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, allow_negative_numbers = true)]
    pub(crate) interval: f64,
    /// End after this many scans; without it, at SIGINT or SIGTERM
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print a JSON object a scan instead of the view and the series
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Keep a file for Prometheus' textfile collector up to date
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) prometheus: Option<PathBuf>,
    /// Write the series as a picture at the end
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) table: TableArgs,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
}
