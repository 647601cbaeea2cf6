//! Flags that several commands have, defined once: parser, help, manual and completions come from
//! here.

use super::size;
use crate::analyze::Options;
use crate::analyze::verify::Verify;
use crate::base::target::Target;
use clap::{Args, ValueEnum};
use std::io::IsTerminal;

/// When to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Colour on standard output?
    pub fn on_stdout(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                std::io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }
}

/// How a table is shown.
#[derive(Args, Clone, Debug, Default)]
pub struct TableArgs {
    /// Columns to show, with commas; +LIST adds to the default ones
    #[arg(short, long, value_name = "LIST", help_heading = "Output")]
    pub output: Option<String>,
    /// List the columns that there are, and end
    #[arg(long, help_heading = "Output")]
    pub list_columns: bool,
    /// Leave the heading out
    #[arg(short, long, help_heading = "Output")]
    pub noheadings: bool,
    /// Sizes in bytes instead of K, M, G
    #[arg(short, long, help_heading = "Output")]
    pub bytes: bool,
    /// When to use colour
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub color: Color,
}

/// When to show progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum When {
    /// On a terminal, if it takes long.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What is read a second time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum VerifyArg {
    /// A sample; every shared page as soon as the sample shows a change.
    #[default]
    Auto,
    /// Every shared page.
    Full,
    /// Nothing.
    None,
}

/// How a scan is made.
#[derive(Args, Clone, Debug, Default)]
pub struct ScanArgs {
    /// Threads to scan with; 0 is one for each processor
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "PAGEHERD_THREADS",
        hide_env_values = true,
        value_parser = threads,
        help_heading = "Scan"
    )]
    pub threads: usize,
    /// Bound the memory kept for shared pages (at least 8M); page tables are read again for what
    /// does not fit
    #[arg(long, value_name = "LIMIT", value_parser = size::parse, help_heading = "Scan")]
    pub memory: Option<u64>,
    /// What to read a second time, to tell pages that change
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Scan")]
    pub verify: VerifyArg,
    /// When to show a progress bar, on standard error
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Scan")]
    pub progress: When,
    /// Leave remarks on standard error out
    #[arg(short, long, help_heading = "Scan")]
    pub quiet: bool,
}

/// Most threads that can be asked for; more would only wait for one another.
const MOST_THREADS: usize = 1024;

/// Reads a number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&n| n <= MOST_THREADS);
    number.ok_or_else(|| format!("write a number from 0 to {MOST_THREADS}"))
}

impl ScanArgs {
    /// As the analysis wants it.
    pub fn options(&self) -> Options {
        Options {
            threads: self.threads,
            memory: self.memory,
            verify: match self.verify {
                VerifyArg::Auto => Verify::Auto,
                VerifyArg::Full => Verify::Full,
                VerifyArg::None => Verify::None,
            },
            ..Options::default()
        }
    }
}

/// What to look at.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// What to look at: [NAME=]pid:N, comm:GLOB, cgroup:PATH, image:PATH or herd:DIR/VM; without any, every VMM
    /// on the host, or else the largest processes
    #[arg(value_name = "TARGET")]
    pub targets: Vec<Target>,
}
