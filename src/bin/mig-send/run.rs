//! What mig-send does, in order.

use crate::NAME;
use crate::args::{Cli, Freeze, Vm};
use crate::bill;
use anyhow::{Context, Result};
use pageherd::base::address::Address;
use pageherd::base::target::TargetError;
use pageherd::cli::exit::Misuse;
use pageherd::cli::output::{self, remark};
use pageherd::cli::{Exit, progress};
use pageherd::filter::chain::Name;
use pageherd::filter::codec::Codec;
use pageherd::migrate::codecs::Codecs;
use pageherd::migrate::send::{self, Options, SendError, SendVm, Sent, Watch};
use pageherd::migrate::templates::TemplateFile;
use pageherd::migrate::transaction::{Sender, Source};
use pageherd::source::feed::{self, Opened};
use pageherd::source::freeze::{FreezeError, Frozen, Guard, Options as FreezeOptions};
use pageherd::source::resolve::find;
use pageherd::transport::filter_exec::{ANSWER_TIMEOUT, Direction, ExecCodec, ExecFilter};
use pageherd::transport::{self, Channel, TransportError};
use pageherd::wire::header::Session;
use pageherd::wire::record::is_vm_name;
use std::sync::{Arc, Mutex, PoisonError};

/// A VM that was found.
struct Found {
    name: String,
    opened: Opened,
    foreign: bool,
}

pub(crate) fn run(cli: &Cli) -> Result<Exit> {
    if let Some(session) = cli.resolve {
        return resolve(cli, session);
    }
    if cli.end_group {
        return crate::vmm::end_group(cli);
    }
    if cli.qemu {
        return crate::vmm::run(cli);
    }
    if cli.group.is_some() {
        return Err(Misuse(
            "--group is for --qemu: VMs that are named together share by themselves".to_owned(),
        )
        .into());
    }
    if cli.vms.is_empty() {
        return Err(Misuse(
            "there is nothing to send: name it by --vm, as in --vm web=pid:4711".to_owned(),
        )
        .into());
    }
    if cli.json && cli.quiet {
        return Err(Misuse("--json asks for the bill and --quiet for none".to_owned()).into());
    }
    if cli.live && cli.freeze == Freeze::None {
        return Err(Misuse(
            "--live must be able to hold the process at its end: leave --freeze none out"
                .to_owned(),
        )
        .into());
    }
    if cli.live && !cli.refer.is_empty() {
        return Err(Misuse("--live sends pages twice, and what they refer to in another stream may change between: leave --refer out".to_owned()).into());
    }
    // before anything else: it must be made while there is one thread
    let guard = match cli.freeze {
        Freeze::None => None,
        Freeze::By(_) => Some(Guard::start()?),
    };
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global().context("threads")?;
    let vms = open(cli)?;
    say_if_frames_are_hidden(cli, &vms);
    let groups = trust(&cli.trust, &vms)?;
    let (options, filter) = options(cli)?;
    let mut medium = transport::connect(&cli.to, &cli.transport.options(cli.rate, false))?;
    if cli.moves && !medium.two_way && !cli.one_way {
        let what = medium.what.clone();
        let why = "nobody can say on it that the memory has arrived: use a medium with a way back (exec:, unix:, tcp:, tls:), or add --one-way to stay paused all the same".to_owned();
        let _ = medium.abort();
        return Err(TransportError::Refused { what, why }.into());
    }
    let frozen = if cli.live { Vec::new() } else { hold(cli, guard.as_ref(), &vms)? };
    let sending: Vec<SendVm<'_>> = vms
        .iter()
        .zip(groups)
        .map(|(vm, group)| SendVm {
            name: vm.name.clone(),
            feed: vm.opened.feed(),
            foreign: vm.foreign,
            group,
        })
        .collect();
    let all = sending.iter().filter(|vm| !vm.foreign).map(SendVm::pages).sum();
    let watch = Watcher {
        frozen: Mutex::new(frozen),
        hold: &|| hold(cli, guard.as_ref(), &vms),
        moves: cli.moves,
        one_way: !medium.two_way,
        told: cli.moves.then_some((options.session, cli.quiet)),
        cause: Mutex::default(),
        bar: progress::pages(
            all,
            if cli.quiet { pageherd::cli::args::When::Never } else { cli.progress },
        ),
    };
    let result = send::send(&sending, &options, &mut medium, &watch);
    watch.bar.finish_and_clear();
    drop(options);
    // the receiver has it: whatever becomes of the medium now changes nothing of that
    let confirmed = result.as_ref().is_ok_and(|sent| sent.confirmed);
    let result = watch.cause(end_medium(result, medium));
    let result = result.and_then(|sent| end_filter(filter).map(|()| sent));
    let left = watch.end(&result, confirmed, cli.moves, cli.quiet);
    let sent = result?;
    left?;
    tell(cli, &sent, cli.moves)?;
    Ok(Exit::Ok)
}

/// How to send, and the external filter.
pub(crate) fn options(cli: &Cli) -> Result<(Options, Option<Arc<ExecCodec>>)> {
    let hashing = cli.transport.hashing()?;
    let templates = cli.template.iter().map(|path| TemplateFile::open(path));
    let templates: Vec<TemplateFile> = templates.collect::<Result<_, _>>()?;
    let templates = templates.into_iter().map(|t| t.know(&hashing)).collect::<Result<_, _>>()?;
    let (level, filter) = codecs(cli)?;
    let exec = filter.clone().map(|filter| Box::new(filter) as Box<dyn Codec>);
    let options = Options {
        chain: cli.filters.clone(),
        keep_filters: cli.keep_filters,
        hashing,
        templates,
        codecs: Codecs::new(level, exec),
        still: true,
        live: cli.live,
        remember: cli.remember,
        verify: cli.verify,
        session: Session(random()?),
        secret: random()?,
        unproven: false,
    };
    Ok((options, filter))
}

/// Shows the bill.
pub(crate) fn tell(cli: &Cli, sent: &Sent, moves: bool) -> Result<()> {
    if !cli.quiet {
        let text = match cli.json {
            true => format!("{}\n", bill::json(sent, moves)),
            false => bill::text(sent, cli.bytes),
        };
        if cli.json && cli.to != Address::Stdio && !cli.qemu {
            output::text(&text)?;
        } else {
            eprint!("{text}");
        }
    }
    Ok(())
}

fn open(cli: &Cli) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    let own = cli.vms.iter().map(|vm| match vm {
        Vm::Target(target) => Ok(target.clone()),
        Vm::Name(name) => Err(TargetError::NoKind(name.clone())),
    });
    let own = own.collect::<Result<Vec<_>, _>>().map_err(|e| Misuse(e.to_string()))?;
    for (targets, foreign) in [(cli.refer.clone(), true), (own, false)] {
        if targets.is_empty() {
            continue;
        }
        let (found, notes) = find(&targets)?;
        notes.iter().for_each(|note| remark(NAME, cli.quiet, note));
        for found in found {
            let (name, opened) = feed::open(found)?;
            if !is_vm_name(&name) {
                return Err(Misuse(format!("'{name}' cannot be a VM's name at the far end: give it another, as in --vm x={name}")).into());
            }
            if all.iter().any(|other: &Found| other.name == name) {
                return Err(Misuse(format!(
                    "two VMs are named {name}: give one another name, as in --vm b=…"
                ))
                .into());
            }
            if let Opened::Process(feed) = &opened {
                // the kernel's own data is in every process: that it is left out is no news
                let out = feed.left_out().iter().filter(|name| !name.starts_with("[vv"));
                let out: Vec<&str> = out.map(String::as_str).collect();
                let words =
                    format!("VM {name}: left out, as no memory of its own: {}", out.join(", "));
                remark(NAME, cli.quiet || out.is_empty(), &words);
            }
            if opened.feed().blocks().is_empty() {
                return Err(Misuse(format!("VM {name} has no memory that could be sent")).into());
            }
            all.push(Found { name, opened, foreign });
        }
    }
    Ok(all)
}

/// Without frame numbers `shared` finds nothing in processes: no silent fallback.
fn say_if_frames_are_hidden(cli: &Cli, vms: &[Found]) {
    let looked_for = cli.filters.has(&Name::Shared)
        && vms.iter().any(|vm| matches!(vm.opened, Opened::Process(_)));
    if looked_for && let Err(why) = pageherd::sys::caps::probe() {
        let words = format!("what processes share is sent for each of them: {why}");
        remark(NAME, cli.quiet, &words);
    }
}

/// The trust group of each VM: one for those that were named, one of its own for any other.
fn trust(names: &[String], vms: &[Found]) -> Result<Vec<u32>> {
    if let Some(unknown) = names.iter().find(|name| !vms.iter().any(|vm| vm.name == **name)) {
        return Err(
            Misuse(format!("--trust names {unknown}, which is no VM of this command")).into()
        );
    }
    let group = |(number, vm): (u32, &Found)| if names.contains(&vm.name) { 0 } else { number + 1 };
    Ok((0u32..).zip(vms).map(group).collect())
}

/// The level of zstd, and the external filter.
fn codecs(cli: &Cli) -> Result<(i32, Option<Arc<ExecCodec>>)> {
    let (mut level, mut exec) = (pageherd::filter::chain::ZSTD_LEVEL, None);
    for name in &cli.filters.names {
        match name {
            Name::Zstd(asked) => level = *asked,
            Name::Exec(command) => {
                let filter = ExecFilter::start(command, Direction::Pack, ANSWER_TIMEOUT)?;
                exec = Some(Arc::new(ExecCodec::new(filter)));
            }
            _ => {}
        }
    }
    Ok((level, exec))
}

/// Holds the processes still.
fn hold(cli: &Cli, guard: Option<&Guard>, vms: &[Found]) -> Result<Vec<Frozen>> {
    let (Some(guard), Freeze::By(way)) = (guard, &cli.freeze) else { return Ok(Vec::new()) };
    let options = FreezeOptions { way: way.clone(), ..FreezeOptions::default() };
    let mut frozen: Vec<Frozen> = Vec::new();
    let mut held = Vec::new();
    for vm in vms {
        let Opened::Process(feed) = &vm.opened else { continue };
        // two parts of one process are held once
        if held.contains(&feed.process().pid()) {
            continue;
        }
        let hold = guard.freeze(feed.process(), &options)?;
        hold.notes()
            .iter()
            .for_each(|note| remark(NAME, cli.quiet, &format!("VM {}: {note}", vm.name)));
        held.push(feed.process().pid());
        frozen.push(hold);
    }
    Ok(frozen)
}

struct Watcher<'a> {
    frozen: Mutex<Vec<Frozen>>,
    hold: &'a (dyn Fn() -> Result<Vec<Frozen>> + Sync),
    /// Why they did not stand still.
    cause: Mutex<Option<FreezeError>>,
    moves: bool,
    /// Nobody answers: once all is sent, the far end may have it.
    one_way: bool,
    /// The session, to be said before it can become unknown what became of it; and whether to be
    /// quiet.
    told: Option<(Session, bool)>,
    bar: indicatif::ProgressBar,
}

impl Watcher<'_> {
    fn frozen(&self) -> std::sync::MutexGuard<'_, Vec<Frozen>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the cause in the place of what the sender made of it: a process that has ended is another
    /// matter than one that has moved.
    fn cause<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
            match (error.downcast_ref(), cause) {
                (Some(SendError::Source(_)), Some(cause)) => cause.into(),
                _ => error,
            }
        })
    }

    /// Lets the sources go, or leaves them held, as the outcome demands.
    fn end<T>(self, result: &Result<T>, confirmed: bool, moves: bool, quiet: bool) -> Result<()> {
        let unknown = result.as_ref().err().is_some_and(|error| {
            error.chain().any(|e| matches!(e.downcast_ref(), Some(SendError::Unknown { .. })))
        });
        let stays = moves && (result.is_ok() || confirmed || unknown);
        let mut failed = None;
        for hold in self.frozen.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let words = hold.words();
            let done = if stays { hold.leave() } else { hold.thaw().map(|_| ()) };
            match done {
                Err(error) => failed = Some(error),
                Ok(()) if stays && unknown => remark(
                    NAME,
                    quiet,
                    &format!("the source stays paused until that is known; {words}"),
                ),
                Ok(()) if stays => remark(
                    NAME,
                    quiet,
                    &format!(
                        "the source stays paused: its memory is the receiver's now. End it; only if the receiver has lost it, {words}"
                    ),
                ),
                Ok(()) => {}
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

impl Watch for Watcher<'_> {
    fn pages(&self, pages: u64) {
        self.bar.inc(pages * 4096);
    }

    fn hold(&self) -> Result<(), String> {
        *self.frozen() = (self.hold)().map_err(|e| format!("{e:#}"))?;
        Ok(())
    }

    fn stood_still(&self) -> Result<(), String> {
        self.frozen().iter_mut().try_for_each(Frozen::check).map_err(|error| {
            let said = error.to_string();
            *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            said
        })
    }

    fn state(&self, state: Sender) -> Result<(), String> {
        if !self.moves {
            return Ok(());
        }
        // killed from now on: whoever comes next must not let it go, or may
        let last_word = self.one_way && state == Sender::Sealed;
        let keep = state.source() != Source::Ours && (last_word || !state.may_thaw_when_killed());
        if let (Sender::CommitAsked, Some((session, quiet))) = (state, self.told) {
            remark(
                NAME,
                quiet,
                &format!(
                    "session {session}: the receiver is told to commit; should this command be killed now, ask with --resolve {session}"
                ),
            );
        }
        self.frozen()
            .iter_mut()
            .try_for_each(|hold| hold.keep_when_killed(keep))
            .map_err(|e| e.to_string())
    }
}

/// Ends the medium, well or not; its own error says more than a closed pipe.
pub(crate) fn end_medium<T>(result: Result<T, SendError>, medium: Channel) -> Result<T> {
    let what = medium.what.clone();
    match result {
        Ok(sent) => medium.finish().map(|()| sent).map_err(Into::into),
        Err(error) => {
            let known = medium.abort();
            match error {
                SendError::Write(e) => match known {
                    Err(cause) => Err(cause.into()),
                    Ok(()) => Err(TransportError::of(&what, "write", e).into()),
                },
                SendError::Answer(e) => Err(TransportError::of(&what, "read the answer", e).into()),
                SendError::BadAnswer(pageherd::wire::WireError::Cut { .. }) if known.is_err() => {
                    Err(known.err().map_or_else(|| error.into(), Into::into))
                }
                other => Err(other.into()),
            }
        }
    }
}

/// An external filter that ends badly is an error, also when all its answers were right.
pub(crate) fn end_filter(filter: Option<Arc<ExecCodec>>) -> Result<()> {
    match filter.and_then(Arc::into_inner) {
        Some(filter) => Ok(filter.finish()?),
        None => Ok(()),
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut random = std::fs::File::open("/dev/urandom").context("/dev/urandom")?;
    std::io::Read::read_exact(&mut random, &mut bytes).context("/dev/urandom")?;
    Ok(bytes)
}

fn resolve(cli: &Cli, session: Session) -> Result<Exit> {
    let hashing = cli.transport.hashing()?;
    let mut medium = transport::connect(&cli.to, &cli.transport.options(None, false))?;
    if !medium.two_way {
        return Err(
            Misuse(format!("{} has no way back: nobody can be asked by it", medium.what)).into()
        );
    }
    let answer = send::resolve(session, &hashing, Session(random()?), &mut medium);
    let committed = end_medium(answer, medium)?;
    let (word, meaning) = match committed {
        true => {
            ("committed", "the receiver has the memory: end the source, it must never run again")
        }
        false => {
            ("aborted", "the receiver has not got the memory and never will: the source can run on")
        }
    };
    if cli.json {
        output::json(&serde_json::json!({ "session": session.to_string(), "state": word }))?;
    } else {
        output::text(&format!("{word}\n"))?;
        remark(NAME, cli.quiet, meaning);
    }
    Ok(Exit::Ok)
}
