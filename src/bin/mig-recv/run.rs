//! What mig-recv does, in order: open everything, give up rights, then read.

use crate::NAME;
use crate::args::Cli;
use anyhow::{Context, Result};
use pageherd::base::address::Address;
use pageherd::cli::exit::Misuse;
use pageherd::cli::output::{self, remark};
use pageherd::cli::{Exit, progress, size};
use pageherd::filter::codec::Codec;
use pageherd::migrate::codecs::Codecs;
use pageherd::migrate::receive::{Ends, ReceiveError, Received, Site, VmmPlace, receive};
use pageherd::migrate::templates::TemplateFile;
use pageherd::sink::vmm::VmmError;
use pageherd::store::{Store, discard::Discard, herd::Herd, image::Images};
use pageherd::sys::sandbox::{self, Plan, User};
use pageherd::transport::filter_exec::{ANSWER_TIMEOUT, Direction, ExecCodec, ExecFilter};
use pageherd::transport::{self, Channel, Listener, TransportError};
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How often a listener looks whether all streams have come elsewhere.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(cli: &Cli) -> Result<Exit> {
    if let Some(file) = &cli.explain {
        return crate::explain::run(file, cli.quiet);
    }
    if cli.end_group {
        return crate::vmm::end_group(cli);
    }
    if cli.qemu {
        crate::vmm::check(cli)?;
    } else if cli.vm.is_some() {
        return Err(Misuse("the sender names the VMs, and --vm here is the one that a QEMU waits for (--qemu); --image NAME=FILE says where one goes".to_owned()).into());
    }
    if cli.into.is_none() && cli.image.is_empty() && !cli.discard && !cli.qemu {
        return Err(Misuse("where to? Name a herd by --into DIR, or images by --image NAME=FILE, or a QEMU by --qemu; --discard only proves a stream".to_owned()).into());
    }
    if cli.from.len() > usize::from(cli.streams) {
        return Err(Misuse(format!(
            "{} addresses and {} streams: add --streams {}",
            cli.from.len(),
            cli.streams,
            cli.from.len()
        ))
        .into());
    }
    let hashing = cli.transport.hashing()?;
    let user = user(cli.user.as_deref())?;
    let templates = cli.template.iter().map(|path| TemplateFile::open(path));
    let templates: Vec<TemplateFile> = templates.collect::<Result<_, _>>()?;
    let (store, mut writable) = store(cli, &templates)?;
    let vmm = if cli.qemu { Some(crate::vmm::open(cli, user.as_ref(), &templates)?) } else { None };
    if let Some(group) = vmm.as_ref().and_then(|vmm| vmm.group.as_ref()) {
        writable.push(group.writable().try_clone().context("the group")?);
    }
    let filter = exec(cli.filter.as_deref())?;
    let exec = filter.clone().map(|filter| Box::new(filter) as Box<dyn Codec>);
    // answers go to standard output where the stream comes from standard input
    let options = cli.transport.options(None, !cli.json && !cli.qemu);
    let listeners: Vec<Listener> =
        cli.from.iter().map(|from| transport::listen(from, &options)).collect::<Result<_, _>>()?;
    for listener in &listeners {
        if matches!(listener.local(), Address::Tcp { .. } | Address::Tls { .. }) {
            remark(NAME, cli.quiet, &format!("listening at {}", listener.local()));
        }
    }
    if !cli.no_sandbox {
        let writable = writable.iter().map(AsFd::as_fd).collect();
        let plan = Plan { user, writable, threads: true, ..Plan::default() };
        let entered = sandbox::enter(&plan)?;
        entered.missing.iter().for_each(|missing| remark(NAME, cli.quiet, missing));
    }
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global().context("threads")?;
    let templates = templates.into_iter().map(|t| t.know(&hashing)).collect::<Result<_, _>>()?;
    let pages = cli.max_ram / 4096;
    let codecs = Codecs::new(pageherd::filter::chain::ZSTD_LEVEL, exec);
    let mut site = Site::new(store, templates, codecs, hashing, pages);
    site.wait = Duration::from_secs(cli.wait);
    site.verify = cli.verify;
    site.vmm = vmm.map(VmmPlace::new);
    site.desk.expect(usize::from(cli.streams));
    let all = take(cli, &site, listeners);
    drop(site);
    if let Some(filter) = filter.and_then(Arc::into_inner) {
        filter.finish()?;
    }
    report(cli, all)
}

fn user(name: Option<&str>) -> Result<Option<User>> {
    let Some(name) = name else { return Ok(None) };
    let user = User::named(name).with_context(|| format!("user {name}"))?;
    Ok(Some(user.ok_or_else(|| Misuse(format!("there is no user {name}")))?))
}

/// The store, and the directories that it writes to.
fn store(cli: &Cli, templates: &[TemplateFile]) -> Result<(Box<dyn Store>, Vec<File>)> {
    if let Some(dir) = &cli.into {
        let herd = Herd::open(dir, templates.iter().map(TemplateFile::as_map_file).collect())?;
        let open = herd.dir().try_clone().context("the herd")?;
        return Ok((Box::new(herd), vec![open]));
    }
    if cli.discard || cli.qemu {
        return Ok((Box::new(Discard), Vec::new()));
    }
    let mut paths = HashMap::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    for (name, path) in &cli.image {
        if paths.insert(name.clone(), path.clone()).is_some() {
            return Err(Misuse(format!("--image {name}= is there twice")).into());
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folders.iter().any(|other| other == folder) {
            folders.push(folder.to_owned());
        }
    }
    let open = |path: &PathBuf| {
        File::open(path).with_context(|| format!("{} cannot be opened", path.display()))
    };
    let folders = folders.iter().map(open).collect::<Result<_>>()?;
    let files = templates.iter().map(TemplateFile::file).collect::<Result<_, _>>()?;
    Ok((Box::new(Images::new(paths, files, cli.force)), folders))
}

fn exec(filter: Option<&str>) -> Result<Option<Arc<ExecCodec>>> {
    let Some(filter) = filter else { return Ok(None) };
    let command = filter.strip_prefix("exec:").filter(|command| !command.trim().is_empty());
    let command = command
        .ok_or_else(|| Misuse(format!("'{filter}' is no external filter: write exec:COMMAND")))?;
    let filter = ExecFilter::start(command, Direction::Unpack, ANSWER_TIMEOUT)?;
    Ok(Some(Arc::new(ExecCodec::new(filter))))
}

/// Takes the streams: each listener has a thread, and so has each stream.
fn take(cli: &Cli, site: &Site, listeners: Vec<Listener>) -> Vec<Result<Received>> {
    let streams = usize::from(cli.streams);
    let (say, hear) = channel();
    let bar =
        progress::pages(0, if cli.quiet { pageherd::cli::args::When::Never } else { cli.progress });
    // one listener that gives one channel needs no thread, and none is left waiting at the end
    if let ([_], 1) = (listeners.as_slice(), streams) {
        return listeners
            .into_iter()
            .map(|mut l| {
                while site.vmm.is_some() && matches!(l.wait(LOOK), Ok(false)) {
                    // whoever waits for a sender in vain is not to outlive its QEMU
                    if site.vmm.as_ref().is_some_and(|vmm| !vmm.is_there()) {
                        return Err(ReceiveError::from(VmmError::Gone).into());
                    }
                }
                l.accept().map_err(Into::into).and_then(|c| one(site, c, &bar))
            })
            .collect();
    }
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut listener in listeners {
            let (say, bar, enough) = (say.clone(), &bar, &enough);
            let many = matches!(
                listener.local(),
                Address::Tcp { .. } | Address::Tls { .. } | Address::Unix(_)
            );
            let turns = if many { streams } else { 1 };
            scope.spawn(move || {
                for _ in 0..turns {
                    // all streams may come by another listener: then nobody comes here any more
                    while !enough.load(Ordering::Relaxed)
                        && matches!(listener.wait(LOOK), Ok(false))
                    {}
                    if enough.load(Ordering::Relaxed) {
                        return;
                    }
                    match listener.accept() {
                        Ok(medium) => {
                            let say = say.clone();
                            scope.spawn(move || say.send(one(site, medium, bar)));
                        }
                        // a peer without a certificate is no stream
                        Err(e @ TransportError::Tls { .. }) => {
                            remark(NAME, cli.quiet, &e.to_string());
                        }
                        Err(e) => {
                            let _ = say.send(Err(e.into()));
                            return;
                        }
                    }
                }
            });
        }
        drop(say);
        let all = hear.iter().take(streams).collect();
        enough.store(true, Ordering::Relaxed);
        all
    })
}

fn one(site: &Site, mut medium: Channel, bar: &indicatif::ProgressBar) -> Result<Received> {
    let what = medium.what.clone();
    let mut input = medium.input.take().context("the medium has no input")?;
    let mut output = medium.output.take();
    let result = receive(
        site,
        Ends { input: &mut input, answers: output.as_mut(), strict: medium.strict },
        &|pages| bar.inc(pages * 4096),
    );
    (medium.input, medium.output) = (Some(input), output);
    match result {
        Ok(received) => {
            // it is committed: that the sender did not wait for our last word changes nothing
            let _ = medium.finish();
            Ok(received)
        }
        Err(error) => {
            // a refusal must still reach the sender
            let known = medium.finish();
            Err(match error {
                ReceiveError::Read(e) => TransportError::of(&what, "read", e).into(),
                ReceiveError::Answer(e) => TransportError::of(&what, "answer", e).into(),
                ReceiveError::Wire(pageherd::wire::WireError::Cut { .. })
                    if matches!(known, Err(TransportError::Child { .. })) =>
                {
                    known.err().map_or_else(|| error.into(), Into::into)
                }
                other => other.into(),
            })
        }
    }
}

fn report(cli: &Cli, all: Vec<Result<Received>>) -> Result<Exit> {
    let mut failed = None;
    let mut shown = Vec::new();
    for result in all {
        match result {
            Ok(Received::Committed { session, vms, bytes, slots }) => {
                for vm in &vms {
                    let (name, memory) = (&vm.name, size::pages(vm.pages, false));
                    remark(
                        NAME,
                        cli.quiet || cli.json,
                        &format!("{name}: {memory}, digest {}", vm.digest),
                    );
                    if let Some(bytes) = vm.state_bytes {
                        let state = size::human(bytes);
                        let words =
                            format!("{name}: the state of its devices, {state}, is in {name}.qemu");
                        remark(NAME, cli.quiet || cli.json, &words);
                    }
                }
                let vms: Vec<_> = vms
                    .iter()
                    .map(|vm| {
                        let mut one = json!({ "name": vm.name, "pages": vm.pages, "digest": vm.digest.to_string() });
                        if let Some(bytes) = vm.state_bytes {
                            one["state_bytes"] = bytes.into();
                        }
                        one
                    })
                    .collect();
                shown.push(json!({ "session": session.to_string(), "vms": vms, "stream_bytes": bytes, "distinct_pages": slots }));
            }
            Ok(Received::Resolved { session, committed }) => {
                let word = if committed { "committed" } else { "aborted" };
                remark(
                    NAME,
                    cli.quiet || cli.json,
                    &format!("session {session} was asked for: {word}"),
                );
                shown.push(json!({ "session": session.to_string(), "state": word }));
            }
            Err(error) => {
                if failed.is_some() {
                    let line = pageherd::cli::exit::message(NAME, &error);
                    let _ = writeln!(std::io::stderr(), "{line}");
                }
                failed = failed.or(Some(error));
            }
        }
    }
    if cli.json {
        let text = json!({ "streams": shown });
        // where standard output is QEMU's
        if cli.qemu { eprintln!("{text}") } else { output::json(&text)? }
    }
    failed.map_or(Ok(Exit::Ok), Err)
}
