//! The command line of mig-send.

use crate::texts;
use clap::Parser;
use pageherd::base::address::Address;
use pageherd::base::target::Target;
use pageherd::cli::args::When;
use pageherd::cli::moves::{TransportArgs, rate};
use pageherd::cli::page;
use pageherd::filter::chain::Chain;
use pageherd::store::group::GroupName;
use pageherd::wire::header::Session;
use pageherd::wire::record::is_vm_name;
use std::path::PathBuf;

/// Send the memory of virtual machines, and nothing that the far end has
#[derive(Parser, Debug)]
#[command(
    name = "mig-send",
    version,
    max_term_width = 100,
    override_usage = page::usage(&texts::USAGE),
    long_about = texts::MIG_SEND.about,
    after_help = texts::SHORT,
    after_long_help = texts::MIG_SEND.help()
)]
pub(crate) struct Cli {
    /// What to send: [NAME=]pid:N, comm:GLOB, cgroup:PATH, image:PATH or herd:DIR/VM; as often as
    /// there are VMs
    #[arg(long = "vm", value_name = "TARGET")]
    pub(crate) vms: Vec<Vm>,
    /// A VM that another mig-send sends into the same herd: pages that it shares are referred to
    #[arg(long, value_name = "TARGET")]
    pub(crate) refer: Vec<Target>,
    /// Where to: -, exec:CMD, tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, fd:N or file:PATH[,offset=N]
    #[arg(long, value_name = "ADDRESS", default_value = "-")]
    pub(crate) to: Address,

    /// Filters, in order, with commas: unused, zero, template, shared, same, xor, lz4, zstd[=LEVEL],
    /// exec:CMD; auto: those that need no word from you, as measured; none
    #[arg(long, value_name = "LIST", default_value = "auto", help_heading = "Filters")]
    pub(crate) filters: Chain,
    /// A template that the receiver was given too
    #[arg(long, value_name = "FILE", help_heading = "Filters")]
    pub(crate) template: Vec<PathBuf>,
    /// VMs among which the filter 'same' may find equal pages; without it, each by itself
    #[arg(long, value_name = "NAME,NAME…", value_delimiter = ',', help_heading = "Filters")]
    pub(crate) trust: Vec<String>,
    /// Leave filters on that lose time
    #[arg(long, help_heading = "Filters")]
    pub(crate) keep_filters: bool,
    /// Compare the content of pages that page tables prove to be the same
    #[arg(long, help_heading = "Filters")]
    pub(crate) verify: bool,

    /// Send QEMU's own migration stream, which comes on standard input, as 'migrate "exec:mig-send
    /// --qemu …"' has it; --vm is then its name
    #[arg(long, help_heading = "QEMU", conflicts_with_all = ["refer", "live", "moves", "resolve", "trust"])]
    pub(crate) qemu: bool,
    /// Moves that name one group send what they share once: a name, or the path of a directory
    #[arg(long, value_name = "NAME", help_heading = "QEMU")]
    pub(crate) group: Option<GroupName>,
    /// End the group: forget what was sent
    #[arg(long, help_heading = "QEMU", requires = "group", conflicts_with = "qemu")]
    pub(crate) end_group: bool,

    /// How a process is held still: auto, qmp, qmp:SOCKET, cgroup, stop, or none if you see to it
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Source")]
    pub(crate) freeze: Freeze,
    /// Send everything while it runs, then hold it still and send what has changed: it stands still
    /// for a shorter time
    #[arg(long, help_heading = "Source")]
    pub(crate) live: bool,
    /// Memory in which the filter 'xor' remembers what was sent, for --live
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = pageherd::cli::size::parse, help_heading = "Source")]
    pub(crate) remember: u64,
    /// Give the memory up: once the receiver has committed, the source stays paused for good
    #[arg(long = "move", help_heading = "Source", conflicts_with = "resolve")]
    pub(crate) moves: bool,
    /// With --move, on a medium without a way back: stay paused although nobody says that it arrived
    #[arg(long, help_heading = "Source", requires = "moves")]
    pub(crate) one_way: bool,
    /// Ask the receiver what became of a session, and end
    #[arg(long, value_name = "SESSION", help_heading = "Source", conflicts_with_all = ["vms", "refer"])]
    pub(crate) resolve: Option<Session>,

    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// Send no more than so much a second: bytes, as in 100M, or bits, as in 1Gbit
    #[arg(long, value_name = "RATE", value_parser = rate, help_heading = "Transport")]
    pub(crate) rate: Option<u64>,

    /// Threads that pack; 0 is one for each processor
    #[arg(long, value_name = "N", default_value_t = 0, env = "PAGEHERD_THREADS", hide_env_values = true, value_parser = pageherd::cli::args::threads, help_heading = "Filters")]
    pub(crate) threads: usize,
    /// The bill as JSON: on standard output, or on standard error where the stream goes there
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Sizes in bytes instead of K, M, G
    #[arg(short, long, help_heading = "Output")]
    pub(crate) bytes: bool,
    /// When to show a progress bar, on standard error
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub(crate) progress: When,
    /// Leave the bill and remarks out
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// What `--vm` names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Vm {
    /// What is to be read.
    Target(Target),
    /// The name of what comes on standard input.
    Name(String),
}

impl std::str::FromStr for Vm {
    type Err = pageherd::base::target::TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(target) => Ok(Self::Target(target)),
            Err(_) if is_vm_name(text) => Ok(Self::Name(text.to_owned())),
            Err(error) => Err(error),
        }
    }
}

/// How a process is held still.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Freeze {
    /// The user sees to it.
    None,
    /// By us.
    By(pageherd::source::freeze::Way),
}

impl std::str::FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use pageherd::source::freeze::Way;
        Ok(match text {
            "none" => Self::None,
            "auto" => Self::By(Way::Auto),
            "cgroup" => Self::By(Way::Cgroup),
            "stop" => Self::By(Way::Stop),
            "qmp" => Self::By(Way::Qmp { socket: None }),
            other => match other.strip_prefix("qmp:").filter(|path| !path.is_empty()) {
                Some(path) => Self::By(Way::Qmp { socket: Some(path.into()) }),
                None => {
                    return Err(format!(
                        "'{other}' is no way to hold a process: there are auto, qmp, qmp:SOCKET, cgroup, stop and none"
                    ));
                }
            },
        })
    }
}
