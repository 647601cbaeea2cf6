//! What memscan can be asked. Help, manual and completions come from here.

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
    after_help = "Without a subcommand memscan shows the summary. It reads the kernel's own tables and changes \
nothing: no page is brought in, no flag is set. It needs root (CAP_SYS_ADMIN and CAP_SYS_PTRACE).\n\n\
A TARGET is [NAME=]KIND:VALUE:\n  \
pid:N            a process; of a known VMM (QEMU, Firecracker, Cloud Hypervisor, crosvm) its guest RAM\n  \
pid:N,map=GLOB   its mappings whose name in /proc/N/maps matches ('anon' for those without)\n  \
pid:N,range=A-B  its memory between two hexadecimal addresses\n  \
pid:N,all        all of its memory, of a VMM too\n  \
comm:GLOB        every process whose command name matches\n  \
cgroup:PATH      every process of a control group and of those below it\n  \
image:PATH       a memory image in a file: its pages in the page cache\n\n\
Examples:\n  \
memscan                                     every VMM on this host\n  \
memscan matrix --svg m.svg comm:qemu-*      who shares with whom, and a picture\n  \
memscan what-if --leave a a=pid:7 b=pid:8   what if a left\n  \
memscan why a=pid:7 b=pid:8                 why they do not share more"
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
    Summary(SummaryArgs),
    /// Memory shared by each pair of VMs, and by each set of them
    Matrix(MatrixArgs),
    /// Forecast what a move costs: growth there, gain here, bytes to send
    WhatIf(WhatIfArgs),
    /// Why pages with equal content are not shared, and what to change
    Why(WhyArgs),
    /// KSM's state, settings, progress and profit
    Ksm(KsmArgs),
    /// Each page's facts, as lines for a pipe
    Map(MapArgs),
    /// Record a scan in a file, to compare it later
    Record(RecordArgs),
    /// Compare two records: which sharing was lost, and why the footprint grew
    Diff(DiffArgs),
    /// Watch sharing over time; a time series at the end
    Watch(WatchArgs),
    /// Write the manual pages and completions
    #[command(hide = true)]
    Generate(GenerateArgs),
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
    #[command(flatten)]
    pub(crate) table: PlainTableArgs,
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
    #[command(flatten)]
    pub(crate) table: PlainTableArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Seconds between scans
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(crate) interval: f64,
    /// End after this many scans; without it, at SIGINT or SIGTERM
    #[arg(long, value_name = "N")]
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

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// Folder of the manual pages
    pub(crate) man: PathBuf,
    /// Folder of the completions
    pub(crate) completions: PathBuf,
}
