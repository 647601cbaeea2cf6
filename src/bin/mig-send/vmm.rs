//! `--qemu`: QEMU's own migration stream, from standard input.

use crate::NAME;
use crate::args::{Cli, Vm};
use crate::run;
use anyhow::{Context, Result};
use pageherd::base::address::Address;
use pageherd::cli::args::When;
use pageherd::cli::exit::Misuse;
use pageherd::cli::output::remark;
use pageherd::cli::{Exit, progress, size};
use pageherd::filter::chain::{Chain, Name};
use pageherd::migrate::send::{SendError, Sent, VmmVm, Watch, send_vmm};
use pageherd::migrate::transaction::Sender;
use pageherd::source::vmm_stream::{Keeper, Lives, Verdict, VmmStream, is_way_back};
use pageherd::store::group::{Role, SentGroup, end};
use pageherd::sys::fd::{take_stdin, take_stdout};
use pageherd::transport;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The name of a VM that was given none.
const UNNAMED: &str = "vm";

pub(crate) fn run(cli: &Cli) -> Result<Exit> {
    let name = check(cli)?;
    // First of all: QEMU fills the pipe already. And the keeper is made while there is one thread,
    // and before anything is locked that it would keep locked.
    let keeper = Arc::new(Keeper::start().context("the process that keeps the pipe")?);
    let reply = reply(cli)?; // while standard input is still in its place
    let input = take_stdin().context("standard input")?;
    let mut stream = VmmStream::new(input, reply, Some(keeper.clone())).context("QEMU's stream")?;
    let mut group = None;
    let Done { sent, confirmed, verdict } = match send(cli, &name, &mut stream, &mut group, &keeper)
    {
        Ok(done) => done,
        Err(error) => {
            stream.fail();
            return Err(error);
        }
    };
    let unknown = is_unknown(&sent);
    if let Some(group) = group {
        // where it is not known whether the far end has it, nobody may count on its pages
        let left = group.done(sent.is_ok() || confirmed);
        left.unwrap_or_else(|e| remark(NAME, cli.quiet, &e.to_string()));
    }
    // what fails after the far end has said that it has the guest does not bring it back
    match (&sent, confirmed || unknown) {
        (Ok(_), _) | (_, true) => {
            let told = stream.complete(verdict.unwrap_or(Verdict::Held));
            told.unwrap_or_else(|e| remark(NAME, cli.quiet, &format!("QEMU is gone: {e}")));
            if unknown {
                remark(
                    NAME,
                    cli.quiet,
                    "QEMU says completed here and keeps the guest paused; the QMP command cont lets it go on",
                );
            }
        }
        (Err(_), false) => {
            stream.fail();
            if let Some(Verdict::Blind(_)) = verdict {
                remark(
                    NAME,
                    cli.quiet,
                    "QEMU says completed all the same, and keeps the guest paused: it does not run at the far end, let it go on with the QMP command cont",
                );
            }
        }
    }
    run::tell(cli, &sent?, true)?;
    Ok(Exit::Ok)
}

fn is_unknown(sent: &Result<Sent>) -> bool {
    sent.as_ref().err().is_some_and(|error| {
        error.chain().any(|e| matches!(e.downcast_ref(), Some(SendError::VmmUnknown { .. })))
    })
}

fn check(cli: &Cli) -> Result<String> {
    let misuse = |words: &str| Err(Misuse(words.to_owned()).into());
    if cli.filters.names.iter().any(|name| matches!(name, Name::Shared | Name::Unused | Name::Xor))
        && cli.filters != Chain::default()
    {
        return misuse(
            "with --qemu there are the filters zero, template, same, lz4, zstd and exec: the others need the memory itself",
        );
    }
    if io::stdin().is_terminal() {
        return misuse(
            "with --qemu QEMU's migration stream comes on standard input: let QEMU start this, as in migrate \"exec:mig-send --qemu …\"",
        );
    }
    match cli.vms.as_slice() {
        [] => Ok(UNNAMED.to_owned()),
        [Vm::Name(name)] => Ok(name.clone()),
        [Vm::Target(_)] => misuse("with --qemu --vm is a name alone: --vm web1"),
        _ => misuse("one QEMU, one VM: start a mig-send for each, with one --group"),
    }
}

/// Where QEMU listens, if it does: standard output, unless the stream goes there.
fn reply(cli: &Cli) -> Result<Option<OwnedFd>> {
    if cli.to == Address::Stdio || !is_way_back(io::stdin().as_fd(), io::stdout().as_fd()) {
        return Ok(None);
    }
    take_stdout().map(Some).context("standard output")
}

/// How it ended.
struct Done {
    sent: Result<Sent>,
    /// The far end has said that it has the guest.
    confirmed: bool,
    verdict: Option<Verdict>,
}

fn send(
    cli: &Cli,
    name: &str,
    stream: &mut VmmStream,
    group: &mut Option<SentGroup>,
    keeper: &Arc<Keeper>,
) -> Result<Done> {
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global().context("threads")?;
    *group = cli.group.as_ref().map(SentGroup::join).transpose()?;
    let (mut options, filter) = run::options(cli)?;
    options.chain = options.chain.for_vmm();
    let mut medium = transport::connect(&cli.to, &cli.transport.options(cli.rate, false))?;
    let say = |words: &str| remark(NAME, cli.quiet, &format!("VM {name}: {words}"));
    let watch = Watcher {
        keeper: keeper.clone(),
        lives: stream.lives().context("QEMU's stream")?,
        bar: progress::pages(0, if cli.quiet { When::Never } else { cli.progress }),
    };
    let vm = VmmVm { name: name.to_owned(), stream, group: group.as_mut(), say: &say };
    let (sent, verdict) = send_vmm(vm, &options, &mut medium, &watch);
    watch.bar.finish_and_clear();
    drop(options);
    let confirmed = sent.as_ref().is_ok_and(|sent| sent.confirmed);
    let sent = run::end_medium(sent, medium);
    let sent = sent.and_then(|sent| run::end_filter(filter).map(|()| sent));
    Ok(Done { sent, confirmed, verdict })
}

struct Watcher {
    keeper: Arc<Keeper>,
    lives: Lives,
    bar: indicatif::ProgressBar,
}

impl Watch for Watcher {
    fn pages(&self, pages: u64) {
        self.bar.inc(pages * 4096);
    }

    fn may_commit(&self) -> Result<(), String> {
        // one that was cancelled lets its guest go on by itself
        if self.lives.is_there() {
            return Ok(());
        }
        Err("QEMU has closed its stream: the move was cancelled there, or it has ended".to_owned())
    }

    fn state(&self, state: Sender) -> Result<(), String> {
        // killed from now on: the far end may have it
        if state == Sender::CommitAsked {
            self.keeper.keep(true).map_err(|e| format!("the keeper of the pipe is gone: {e}"))?;
        }
        Ok(())
    }
}

/// `--end-group`.
pub(crate) fn end_group(cli: &Cli) -> Result<Exit> {
    let Some(name) = &cli.group else { return Ok(Exit::Ok) };
    let ended = end(name, Role::Send)?;
    let (members, bytes) = (ended.members, size::human(ended.bytes));
    remark(NAME, cli.quiet, &format!("the group is ended: {members} moves, {bytes} given back"));
    Ok(Exit::Ok)
}
