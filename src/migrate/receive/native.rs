//! A VMM's own migration stream, written again for the VMM that waits for it.
//!
//! Everything goes out in the order in which it comes: what is no page as it is, pages as the VMM
//! writes them. What starts the guest is held back until the move is committed, and that is not agreed
//! to before the VMM has accepted all else ([`VmmSink::settle`]).
//!
//! Of what has gone out nothing is remembered but a hash for each page, and the pages that the stream
//! has kept in the pool.

use super::apply::{Placed, Scratch, size};
use super::rules::Rules;
use super::{ReceiveError, Site, Stream};
use crate::base::digest::{Hashing, MemoryDigest, PageHash, is_zero};
use crate::migrate::seal::NativeSeal;
use crate::placement::ledger::LedgerError;
use crate::qemu::emit::Emitter;
use crate::sink::vmm::{Mapped, VmmSink};
use crate::store::group::{GroupDir, GroupError, Pool};
use crate::wire::WireError;
use crate::wire::pages::Op;
use crate::wire::record::{Native, PoolShape, VmShape};
use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};

const PAGE: usize = 4096;
/// Most bytes that are held back.
const MOST_HELD: usize = 16 << 20;
pub(super) const NOT_COME: WireError =
    WireError::Wrong("it names a page of the pool that has not come");

/// The VMM that waits, and what is kept for its stream.
#[derive(Debug)]
pub struct Vmm {
    /// The pipe to it.
    pub sink: VmmSink,
    /// The group that the stream may belong to.
    pub group: Option<GroupDir>,
    /// Most bytes of the pool.
    pub pool_limit: u64,
    /// Its memory lies on this template (a number of the ledger).
    pub mapped: Option<(u32, Mapped)>,
    /// The name that the VM must have; any where it is not said.
    pub name: Option<String>,
}

/// Where a receiver of one VMM's stream keeps it until the stream comes.
#[derive(Debug, Default)]
pub struct VmmPlace(Mutex<Option<Vmm>>);

impl VmmPlace {
    /// For this one.
    pub const fn new(vmm: Vmm) -> Self {
        Self(Mutex::new(Some(vmm)))
    }

    /// Is the VMM there, as long as no stream has come?
    pub fn is_there(&self) -> bool {
        let vmm = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        vmm.as_ref().is_none_or(|vmm| vmm.sink.is_there())
    }

    fn take(&self) -> Option<Vmm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream on its way to a VMM.
#[derive(Debug)]
pub(super) struct Relay {
    vmm: Vmm,
    pool: Option<Pool>,
    keeps: bool,
    seal: NativeSeal,
    emitter: Emitter,
    /// First page of each block, and of what would follow the last.
    starts: Vec<u64>,
    hashes: Vec<u64>,
    digest: MemoryDigest,
    /// The block that lies on a template, and its pages that were written to: a bit each.
    on: Option<On>,
    /// The last page, if it did not have to be written: the VMM does not know that it came.
    silent: Option<u64>,
    held: Option<Vec<u8>>,
    idle: Vec<u8>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct On {
    template: u32,
    first: u64,
    pages: u64,
    written: Vec<u64>,
}

impl On {
    /// Is this page of the VM the same page of the template, until something is written there?
    fn page(&self, page: u64) -> Option<u64> {
        let at = page.checked_sub(self.first).filter(|&at| at < self.pages)?;
        let word = usize::try_from(at / 64).ok()?;
        (self.written[word] >> (at % 64) & 1 == 0).then_some(at)
    }

    fn written(&mut self, page: u64) {
        if let Some(at) = page.checked_sub(self.first).filter(|&at| at < self.pages) {
            self.written[usize::try_from(at / 64).unwrap_or(0)] |= 1 << (at % 64);
        }
    }
}

impl Relay {
    /// For the one VM of the stream.
    pub(super) fn new(site: &Site, shape: &VmShape) -> Result<Self, ReceiveError> {
        let vmm = site.vmm.as_ref().and_then(VmmPlace::take);
        let vmm = vmm.ok_or(WireError::Wrong("it has more than one VM"))?;
        if let Some(name) = vmm.name.as_ref().filter(|name| **name != shape.name) {
            return Err(ReceiveError::OtherVm { wanted: name.clone(), found: shape.name.clone() });
        }
        let emitter = Emitter::new(shape.blocks.iter().map(|(name, _)| name))
            .map_err(|_| WireError::Wrong("a block has a name that the VMM cannot have"))?;
        let mut starts = vec![0];
        for (_, pages) in &shape.blocks {
            starts.push(starts[starts.len() - 1] + pages);
        }
        let on = vmm.mapped.as_ref().and_then(|(template, mapped)| {
            // of two blocks of one length nobody knows which it is
            let fits = |((_, pages), _): &(&(String, u64), &u64)| *pages == mapped.pages;
            let mut fitting = shape.blocks.iter().zip(&starts).filter(fits);
            let (Some((_, &first)), None) = (fitting.next(), fitting.next()) else { return None };
            let words = usize::try_from(mapped.pages.div_ceil(64)).ok()?;
            let pages = mapped.pages;
            let mut on = On { template: *template, first, pages, written: vec![0; words] };
            for own in &mapped.own {
                (own.start..own.end).for_each(|page| on.written(first + page));
            }
            Some(on)
        });
        let pages = usize::try_from(shape.pages()).unwrap_or(0);
        Ok(Self {
            vmm,
            pool: None,
            keeps: false,
            seal: NativeSeal::default(),
            emitter,
            starts,
            hashes: vec![0; pages],
            digest: MemoryDigest::default(),
            on,
            silent: None,
            held: None,
            idle: Vec::new(),
            buffer: vec![0; PAGE],
        })
    }

    pub(super) const fn seal(&self) -> &NativeSeal {
        &self.seal
    }

    fn block(&self, page: u64) -> (u32, u64) {
        let block = self.starts.partition_point(|&start| start <= page).saturating_sub(1);
        (u32::try_from(block).unwrap_or(u32::MAX), page - self.starts[block])
    }

    fn pool(&mut self) -> Result<&mut Pool, WireError> {
        self.pool.as_mut().ok_or(WireError::Wrong("it has declared no pool"))
    }

    fn note(&mut self, hashing: &Hashing, page: u64, hash: Option<PageHash>) {
        let Some(slot) = usize::try_from(page).ok().and_then(|at| self.hashes.get_mut(at)) else {
            return;
        };
        if *slot != 0 {
            self.digest.remove(hashing.term(page, PageHash(*slot)));
        }
        *slot = hash.map_or(0, |hash| hash.0);
        if *slot != 0 {
            self.digest.add(hashing.term(page, PageHash(*slot)));
        }
    }

    fn zero(&mut self, site: &Site, page: u64) -> Result<(), ReceiveError> {
        self.note(&site.hashing, page, None);
        // memory on a page of the template that is zero need not be told; reading a hole of it would
        // make the VMM fill it
        if let Some((at, template)) =
            self.on.as_ref().and_then(|on| Some((on.page(page)?, on.template)))
            && is_zero_there(site, template, at)
        {
            self.silent = Some(page);
            return Ok(());
        }
        self.write_zero(page)
    }

    fn write_zero(&mut self, page: u64) -> Result<(), ReceiveError> {
        self.silent = None;
        self.on.iter_mut().for_each(|on| on.written(page));
        let (block, at) = self.block(page);
        let written = self.emitter.zero(block, at, self.vmm.sink.buffer());
        written.map_err(|_| WireError::Wrong("pages are beyond the end of their VM"))?;
        Ok(self.vmm.sink.pass()?)
    }

    fn bytes(
        &mut self,
        site: &Site,
        page: u64,
        bytes: &[u8],
        hash: Option<PageHash>,
    ) -> Result<(), ReceiveError> {
        let Ok(content) = <&[u8; PAGE]>::try_from(bytes) else { return Ok(()) };
        self.note(&site.hashing, page, hash);
        self.silent = None;
        self.on.iter_mut().for_each(|on| on.written(page));
        let (block, at) = self.block(page);
        let written = self.emitter.page(block, at, content, self.vmm.sink.buffer());
        written.map_err(|_| WireError::Wrong("pages are beyond the end of their VM"))?;
        Ok(self.vmm.sink.pass()?)
    }

    /// Pages that came as bytes: kept, if they are to be, and written.
    fn came(&mut self, site: &Site, page: u64, bytes: &[u8]) -> Result<(), ReceiveError> {
        if self.keeps {
            self.pool()?.append(bytes)?;
        }
        self.silent = None;
        let (mut heads, mut ends) = (Vec::new(), Vec::new());
        for (page, bytes) in (page..).zip(bytes.chunks(PAGE)) {
            let hash = (!is_zero(bytes)).then(|| site.hashing.page(bytes));
            self.note(&site.hashing, page, hash);
            self.on.iter_mut().for_each(|on| on.written(page));
            let (block, at) = self.block(page);
            let written = self.emitter.head(block, at, &mut heads);
            written.map_err(|_| WireError::Wrong("pages are beyond the end of their VM"))?;
            ends.push(heads.len());
        }
        Ok(self.vmm.sink.pages(&heads, &ends, bytes)?)
    }

    fn template(&mut self, site: &Site, page: u64, file: u32, of: u64) -> Result<(), ReceiveError> {
        let template = &site.templates[file as usize];
        let Some(&hash) = usize::try_from(of).ok().and_then(|of| template.hashes.get(of)) else {
            return Err(LedgerError::BeyondTemplate { page: of, pages: template.pages }.into());
        };
        if self.on.as_ref().is_some_and(|on| on.template == file && on.page(page) == Some(of)) {
            self.note(&site.hashing, page, hash);
            self.silent = Some(page);
            return Ok(());
        }
        if hash.is_none() {
            return self.zero(site, page);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = template.read(of, &mut buffer[..PAGE]).map_err(ReceiveError::Template);
        // a store through a mapping of a tmpfs file changes none of its times
        let result = result.and_then(|()| match site.hashing.page(&buffer[..PAGE]) {
            now if Some(now) == hash => Ok(()),
            _ => Err(ReceiveError::TemplateChanged(template.path.clone())),
        });
        let result = result.and_then(|()| self.bytes(site, page, &buffer[..PAGE], hash));
        self.buffer = buffer;
        result
    }

    /// What is no page comes next, and may go on with the block of the last page without saying so
    /// (records that are not understood): so the VMM must be in that block.
    fn speak_up(&mut self, site: &Site) -> Result<(), ReceiveError> {
        let Some(page) = self.silent.take() else { return Ok(()) };
        if self.emitter.block() == Some(self.block(page).0) {
            return Ok(());
        }
        let on = self.on.as_ref().and_then(|on| Some((on.template, on.page(page)?)));
        let Some((template, at)) = on else { return Ok(()) };
        if is_zero_there(site, template, at) {
            return self.write_zero(page);
        }
        let mut bytes = [0; PAGE];
        site.templates[template as usize].read(at, &mut bytes).map_err(ReceiveError::Template)?;
        let hash = Some(site.hashing.page(&bytes));
        self.bytes(site, page, &bytes, hash)
    }

    fn of_pool(
        &mut self,
        site: &Site,
        page: u64,
        pages: u64,
        (member, of): (u32, u64),
    ) -> Result<(), ReceiveError> {
        /// Pages that are read from the pool at once.
        const AT_ONCE: u64 = 64;
        let mut done = 0;
        while done < pages {
            let some = (pages - done).min(AT_ONCE);
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(size(AT_ONCE), 0);
            let bytes = &mut buffer[..size(some)];
            self.pool()?.read(member, of + done, bytes, site.wait).map_err(
                |error| match error {
                    GroupError::NotYet { .. } | GroupError::Alone { .. } => NOT_COME.into(),
                    other => ReceiveError::from(other),
                },
            )?;
            for (page, bytes) in (page + done..).zip(bytes.chunks(PAGE)) {
                let hash = (!is_zero(bytes)).then(|| site.hashing.page(bytes));
                self.bytes(site, page, bytes, hash)?;
            }
            self.buffer = buffer;
            done += some;
        }
        Ok(())
    }

    /// Gives the VMM everything but what starts its guest, and sees that it has accepted it.
    pub(super) fn prepare(&mut self, asked: bool) -> Result<(), ReceiveError> {
        let idle: &[u8] = if asked { &self.idle } else { &[] };
        Ok(self.vmm.sink.settle(idle)?)
    }

    /// Lets the guest run. What fails before is refused; afterwards it is the VMM's.
    pub(super) fn commit(&mut self) -> Result<(), ReceiveError> {
        if !self.vmm.sink.is_there() {
            return Err(crate::sink::vmm::VmmError::Gone.into());
        }
        if let Some(held) = self.held.take() {
            self.vmm.sink.buffer().extend(held);
        }
        Ok(self.vmm.sink.flush()?)
    }

    /// Is over: the pool stays for the others of its group if it was committed.
    pub(super) fn end(self, committed: bool) -> Result<(), ReceiveError> {
        match self.pool {
            Some(pool) => Ok(pool.finish(committed)?),
            None => Ok(()),
        }
    }
}

fn is_zero_there(site: &Site, template: u32, page: u64) -> bool {
    let hashes = &site.templates[template as usize].hashes;
    usize::try_from(page).ok().and_then(|page| hashes.get(page)).is_some_and(Option::is_none)
}

impl<R: Read, W: Write> Stream<'_, R, W> {
    /// What it may say, if it carries a VMM's stream.
    fn rules(&mut self, what: &'static str) -> Result<&mut Rules, WireError> {
        self.rules.as_mut().ok_or(WireError::Wrong(what))
    }

    /// A part of the VMM's stream that is no page.
    pub(super) fn native(&mut self, part: Native<'_>) -> Result<(), ReceiveError> {
        if self.declared.iter().any(|vm| vm.digest.is_some()) {
            let words = "a part of a VMM's stream comes after its VM was complete";
            return Err(WireError::Wrong(words).into());
        }
        self.rules("it has parts of a VMM's stream and does not say so")?.native(part)?;
        let Some(relay) = &mut self.relay else {
            return self.kept_native(part);
        };
        relay.seal.add(&self.site.hashing, part);
        match (part, &mut relay.held) {
            (Native::Bytes(bytes), None) => {
                relay.speak_up(self.site)?;
                relay.vmm.sink.buffer().extend_from_slice(bytes);
                relay.vmm.sink.pass()?;
            }
            (Native::Bytes(bytes), Some(held)) => {
                held.extend_from_slice(bytes);
                if held.len() > MOST_HELD {
                    return Err(WireError::Wrong("what starts the guest is too long").into());
                }
            }
            (Native::Named, _) => relay.emitter.name_again(),
            (Native::Ready(idle), held) => {
                *held = Some(Vec::new());
                relay.idle = idle.to_vec();
            }
        }
        Ok(())
    }

    /// Which pool.
    pub(super) fn pool(&mut self, shape: &PoolShape) -> Result<(), ReceiveError> {
        self.rules("it has a pool and does not say so")?.pool(shape)?;
        let Some(relay) = &mut self.relay else {
            return if shape.is_own() { Ok(()) } else { Err(ReceiveError::GroupKept) };
        };
        let limit = relay.vmm.pool_limit;
        let pool = if shape.is_own() {
            Pool::private(limit)
        } else {
            let group = relay.vmm.group.take().ok_or(ReceiveError::NoGroup)?;
            Pool::join(group, shape.id, shape.member, limit)?
        };
        for &(member, pages) in &shape.others {
            if !pool.has(member, pages)? {
                return Err(ReceiveError::GroupLost { member });
            }
        }
        relay.pool = Some(pool);
        Ok(())
    }

    /// Are pages kept from here on?
    pub(super) fn keep(&mut self, keep: bool) -> Result<(), ReceiveError> {
        self.rules("it keeps pages and does not say so")?.keep()?;
        match &mut self.relay {
            Some(relay) => relay.keeps = keep,
            None => self.kept_keep(keep),
        }
        Ok(())
    }

    /// Pages that go to the VMM.
    pub(super) fn relay(
        &mut self,
        page: u64,
        placed: &[Placed<'_>],
        scratch: &mut Scratch,
    ) -> Result<(), ReceiveError> {
        let site = self.site;
        let Some(mut relay) = self.relay.take() else { return Ok(()) };
        let result = self.relay_all(&mut relay, site, page, placed, scratch);
        self.relay = Some(relay);
        result
    }

    fn relay_all(
        &self,
        relay: &mut Relay,
        site: &Site,
        page: u64,
        placed: &[Placed<'_>],
        scratch: &Scratch,
    ) -> Result<(), ReceiveError> {
        let all: u64 = placed.iter().map(|placed| placed.op.pages).sum();
        let pages = relay.starts.last().copied().unwrap_or(0);
        let end = page.saturating_add(all);
        if end > pages {
            let name = self.declared[0].shape.name.clone();
            return Err(LedgerError::Beyond { name, page, end, pages }.into());
        }
        let mut unpacked = 0;
        for Placed { op, page, payload } in placed {
            let each = *page..*page + op.pages;
            match op.op {
                Op::Zero => each.into_iter().try_for_each(|page| relay.zero(site, page))?,
                // nothing is said to the VMM of these: they are as they are there
                Op::Skip => {}
                Op::Template { template, page: of } => {
                    let file = self.template_file(template)?;
                    for (page, of) in each.zip(of..) {
                        relay.template(site, page, file, of)?;
                    }
                }
                Op::Pool { member, page: of } => {
                    relay.of_pool(site, *page, op.pages, (member, of))?;
                }
                Op::Same { .. } | Op::Unused => {
                    return Err(WireError::Wrong("a VMM's stream has pages of another kind").into());
                }
                Op::Bytes => relay.came(site, *page, payload)?,
                Op::Packed { .. } | Op::More => {
                    let end = unpacked + size(op.pages);
                    relay.came(site, *page, &scratch.unpacked[unpacked..end])?;
                    unpacked = end;
                }
            }
        }
        Ok(())
    }

    /// Is the memory that went to the VMM the one that was sent?
    pub(super) fn relayed(&self, wanted: MemoryDigest) -> Result<(), ReceiveError> {
        let Some(relay) = &self.relay else { return Ok(()) };
        if relay.digest == wanted {
            return Ok(());
        }
        let (name, found) = (self.declared[0].shape.name.clone(), relay.digest);
        Err(LedgerError::Digest { name, found, wanted }.into())
    }
}
