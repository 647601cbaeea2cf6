//! The command line of mig-recv.

use crate::texts;
use clap::Parser;
use pageherd::base::address::Address;
use pageherd::cli::args::When;
use pageherd::cli::moves::{TransportArgs, named};
use pageherd::cli::page;
use pageherd::cli::size;
use pageherd::store::group::GroupName;
use std::path::PathBuf;

/// Receive streams of mig-send, and keep what they share
#[derive(Parser, Debug)]
#[command(
    name = "mig-recv",
    version,
    max_term_width = 100,
    override_usage = page::usage(&texts::USAGE),
    long_about = texts::MIG_RECV.about,
    after_help = texts::SHORT,
    after_long_help = texts::MIG_RECV.help()
)]
pub(crate) struct Cli {
    /// Where from: -, exec:CMD, tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, fd:N or
    /// file:PATH[,offset=N]; several can be listened to at once
    #[arg(long, value_name = "ADDRESS", default_value = "-")]
    pub(crate) from: Vec<Address>,
    /// Keep the VMs in this herd directory, which is made where there is none
    #[arg(long, value_name = "DIR", group = "where")]
    pub(crate) into: Option<PathBuf>,
    /// Write a VM to a flat sparse image; as often as there are VMs
    #[arg(long, value_name = "NAME=FILE", value_parser = named, group = "where")]
    pub(crate) image: Vec<(String, PathBuf)>,
    /// Keep nothing: prove that a stream is whole
    #[arg(long, group = "where")]
    pub(crate) discard: bool,
    /// Give the stream to QEMU, which waits for it on standard output, as '-incoming "exec:mig-recv
    /// --qemu …"' has it
    #[arg(long, group = "where")]
    pub(crate) qemu: bool,
    /// Print a stream, annotated, and keep nothing; - is standard input
    #[arg(long, value_name = "FILE", group = "where")]
    pub(crate) explain: Option<PathBuf>,
    /// Replace images that exist
    #[arg(long)]
    pub(crate) force: bool,
    /// Take so many streams, one after another and at once, and end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) streams: u16,
    /// How long a page may wait for one of another stream, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u64,

    /// A template that senders may refer to
    #[arg(long, value_name = "FILE", help_heading = "Filters")]
    pub(crate) template: Vec<PathBuf>,
    /// The external filter that unpacks what mig-send --filters exec:CMD packed
    #[arg(long, value_name = "exec:CMD", help_heading = "Filters")]
    pub(crate) filter: Option<String>,
    /// Read everything back before it counts as arrived
    #[arg(long, help_heading = "Filters")]
    pub(crate) verify: bool,

    /// The name that the VM must have
    #[arg(long, value_name = "NAME", help_heading = "QEMU")]
    pub(crate) vm: Option<String>,
    /// The group of the moves that send what they share once: a name, or the path of a directory
    #[arg(long, value_name = "NAME", help_heading = "QEMU")]
    pub(crate) group: Option<GroupName>,
    /// End the group: give its memory back
    #[arg(long, help_heading = "QEMU", requires = "group", group = "where")]
    pub(crate) end_group: bool,
    /// Most memory for pages that may be named again, of the group or of this stream alone
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = size::parse, help_heading = "QEMU")]
    pub(crate) pool_max: u64,

    /// Most memory that the streams may bring together
    #[arg(long, value_name = "SIZE", default_value = "1T", value_parser = size::parse, help_heading = "Safety")]
    pub(crate) max_ram: u64,
    /// Become this user before anything is read; the herd or the images must be writable for it
    #[arg(long, value_name = "NAME", help_heading = "Safety")]
    pub(crate) user: Option<String>,
    /// Keep all rights while reading: without capabilities, Landlock and seccomp given up
    #[arg(long, help_heading = "Safety")]
    pub(crate) no_sandbox: bool,

    #[command(flatten)]
    pub(crate) transport: TransportArgs,

    /// Threads that unpack; 0 is one for each processor
    #[arg(long, value_name = "N", default_value_t = 0, env = "PAGEHERD_THREADS", hide_env_values = true, value_parser = pageherd::cli::args::threads, help_heading = "Filters")]
    pub(crate) threads: usize,
    /// What arrived, as JSON on standard output
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// When to show a progress bar, on standard error
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub(crate) progress: When,
    /// Leave remarks out
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}
