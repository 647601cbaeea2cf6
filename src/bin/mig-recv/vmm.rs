//! `--qemu`: the QEMU that waits on standard output, and the group of its move.

use crate::NAME;
use crate::args::Cli;
use anyhow::{Context, Result};
use pageherd::cli::exit::Misuse;
use pageherd::cli::output::remark;
use pageherd::cli::{Exit, size};
use pageherd::migrate::receive::Vmm;
use pageherd::migrate::templates::TemplateFile;
use pageherd::sink::vmm::{VmmSink, mapped};
use pageherd::store::group::{GroupDir, Role, end};
use pageherd::sys::fd::take_stdout;
use pageherd::sys::sandbox::User;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// What cannot be asked for together with it.
pub(crate) fn check(cli: &Cli) -> Result<()> {
    if cli.streams != 1 || cli.from.len() > 1 {
        let words = "--qemu takes one stream: start a mig-recv for each QEMU, with one --group";
        return Err(Misuse(words.to_owned()).into());
    }
    if cli.verify {
        let words = "--verify reads back what is kept, and what goes to QEMU is not: leave it out";
        return Err(Misuse(words.to_owned()).into());
    }
    if io::stdout().is_terminal() {
        let words = "QEMU's stream is binary and does not go to a terminal: let QEMU start this, as in -incoming \"exec:mig-recv --qemu …\", or redirect it";
        return Err(Misuse(words.to_owned()).into());
    }
    Ok(())
}

/// Takes standard output; what has to be looked up elsewhere is looked up now, before rights are
/// given up.
pub(crate) fn open(cli: &Cli, user: Option<&User>, templates: &[TemplateFile]) -> Result<Vmm> {
    let limit =
        Duration::from_secs(if cli.transport.stall > 0 { cli.transport.stall } else { 3600 });
    let sink = take_stdout().and_then(|out| VmmSink::new(out, limit)).context("standard output")?;
    let owner = user.map(|user| user.uid);
    let group = cli.group.as_ref().map(|name| GroupDir::open(name, Role::Recv, owner));
    let group = group.transpose()?;
    let mut on = None;
    for (number, template) in (0u32..).zip(templates) {
        let file = template.as_map_file();
        if let Some(found) = mapped(&sink, file.device, file.inode, template.pages()) {
            on = Some((number, found));
            break;
        }
    }
    if on.is_none() && !templates.is_empty() {
        remark(
            NAME,
            cli.quiet,
            "QEMU's memory does not lie on the template (memory-backend-file,share=off), or that cannot be seen: all of its memory is written",
        );
    }
    let (name, pool_limit) = (cli.vm.clone(), cli.pool_max);
    Ok(Vmm { sink, group, pool_limit, mapped: on, name })
}

/// `--end-group`.
pub(crate) fn end_group(cli: &Cli) -> Result<Exit> {
    let Some(name) = &cli.group else { return Ok(Exit::Ok) };
    let ended = end(name, Role::Recv)?;
    let (members, bytes) = (ended.members, size::human(ended.bytes));
    remark(NAME, cli.quiet, &format!("the group is ended: {bytes} of {members} moves given back"));
    Ok(Exit::Ok)
}
