//! The receiver itself, with a store in memory.

use crate::applier::{kind_of_ledger, kind_of_wire};
use crate::given::{Feed, Given, Memories, Outcome, PAGE, Refused, state_of, unfill};
use pageherd::base::digest::Hashing;
use pageherd::base::{Place, Places};
use pageherd::filter::codec::{Codec, CodecError};
use pageherd::migrate::codecs::Codecs;
use pageherd::migrate::receive::{Ends, ReceiveError, Site, Vmm, VmmPlace, receive};
use pageherd::migrate::templates::{KnownTemplate, TemplateFile};
use pageherd::sink::vmm::VmmSink;
use pageherd::store::discard::Discard;
use pageherd::store::{Store, StoreError, Whole};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The external filter *fill*.
#[derive(Debug)]
struct Fill;

impl Codec for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn pack(&self, _: &[u8], _: Option<&[u8]>, _: &mut Vec<u8>) -> Result<bool, CodecError> {
        Ok(false)
    }

    fn unpack(&self, packed: &[u8], _: Option<&[u8]>, out: &mut [u8]) -> Result<(), CodecError> {
        let damaged = || CodecError::Damaged { codec: "fill", why: "its length".to_owned() };
        unfill(packed, out).then_some(()).ok_or_else(damaged)
    }
}

/// What a store has: slots, memories that are prepared, and those that anybody can see.
#[derive(Debug, Default)]
struct Kept {
    pool: Vec<u8>,
    prepared: HashMap<(String, String), Places>,
    states: HashMap<(String, String), Vec<u8>>,
    visible: BTreeMap<String, Places>,
    visible_states: Memories,
    verdicts: HashMap<String, bool>,
    reserved: HashSet<String>,
}

#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Kept>>);

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }
}

impl Store for Memory {
    fn slots(&self) -> u64 {
        0
    }

    fn expect(&self, name: &str, _blocks: &[(String, u64)]) -> Result<(), StoreError> {
        self.kept().reserved.insert(name.to_owned());
        Ok(())
    }

    fn put(&self, _name: &str, _page: u64, slot: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let (at, mut kept) = (usize::try_from(slot).unwrap() * PAGE, self.kept());
        let end = kept.pool.len().max(at + bytes.len());
        kept.pool.resize(end, 0);
        kept.pool[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, slot: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let at = usize::try_from(slot).unwrap() * PAGE;
        out.copy_from_slice(&self.kept().pool[at..at + out.len()]);
        Ok(())
    }

    fn takes_state(&self) -> bool {
        true
    }

    fn attach(&self, session: &str, name: &str, state: &[u8]) -> Result<(), StoreError> {
        self.kept().states.insert((session.to_owned(), name.to_owned()), state.to_vec());
        Ok(())
    }

    fn prepare(&self, session: &str, vms: &[Whole<'_>]) -> Result<(), StoreError> {
        for vm in vms {
            let key = (session.to_owned(), vm.name.to_owned());
            self.kept().prepared.insert(key, vm.places.clone());
        }
        Ok(())
    }

    fn publish(&self, session: &str, vms: &[&str]) -> Result<(), StoreError> {
        let mut kept = self.kept();
        kept.verdicts.insert(session.to_owned(), true);
        for vm in vms {
            let key = (session.to_owned(), (*vm).to_owned());
            let places = kept.prepared.remove(&key).unwrap();
            kept.visible.insert((*vm).to_owned(), places);
            if let Some(state) = kept.states.remove(&key) {
                kept.visible_states.push((state_of(vm), state));
            }
        }
        Ok(())
    }

    fn forget(&self, session: &str, vms: &[&str]) {
        let mut kept = self.kept();
        for vm in vms {
            let key = (session.to_owned(), (*vm).to_owned());
            kept.prepared.remove(&key);
            kept.states.remove(&key);
            kept.reserved.remove(*vm);
        }
    }

    fn resolve(&self, session: &str) -> Result<Option<bool>, StoreError> {
        Ok(Some(*self.kept().verdicts.entry(session.to_owned()).or_insert(false)))
    }
}

/// Bytes in pieces.
struct Pieces<'a>(Box<dyn Iterator<Item = &'a [u8]> + 'a>, &'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.1.is_empty() {
            let Some(piece) = self.0.next() else { return Ok(0) };
            self.1 = piece;
        }
        let (now, after) = self.1.split_at(self.1.len().min(out.len()));
        out[..now.len()].copy_from_slice(now);
        self.1 = after;
        Ok(now.len())
    }
}

/// A receiver, ready for any number of streams after one another. Its templates are files.
pub(crate) struct Receiver {
    given: Given,
    hashing: Hashing,
    templates: Vec<KnownTemplate>,
    _files: Vec<tempfile::NamedTempFile>,
}

impl Receiver {
    pub(crate) fn new(given: &Given) -> Self {
        let hashing = given.secret.as_ref().map_or(Hashing::Plain, |secret| Hashing::keyed(secret));
        let (mut templates, mut files) = (Vec::new(), Vec::new());
        for number in 0..given.templates.len() {
            let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
            file.write_all(&given.template(number)).unwrap();
            let template = TemplateFile::open(file.path()).unwrap();
            templates.push(template.know(&hashing).unwrap());
            files.push(file);
        }
        Self { given: given.clone(), hashing, templates, _files: files }
    }

    fn site(&self) -> (Site, Memory) {
        let memory = Memory::default();
        let exec: Option<Box<dyn Codec>> =
            if self.given.exec { Some(Box::new(Fill)) } else { None };
        let codecs = Codecs::new(1, exec);
        let (store, max) = (Box::new(memory.clone()), self.given.max_pages);
        let mut site = Site::new(store, self.templates.clone(), codecs, self.hashing.clone(), max);
        site.wait = Duration::from_secs(20);
        site.verify = true;
        (site, memory)
    }

    /// Takes streams one after another; where `together`, at the same time.
    pub(crate) fn take(&self, streams: &[&[u8]], feed: Feed, together: bool) -> Outcome {
        let (site, memory) = self.site();
        site.desk.expect(streams.len());
        let one = |bytes: &[u8]| {
            let mut answers: Vec<u8> = Vec::new();
            let input = Pieces(feed.each(bytes), &[]);
            receive(&site, Ends { input, answers: Some(&mut answers), strict: true }, &|_| {})
                .map(drop)
        };
        let results: Vec<Result<(), ReceiveError>> = if together {
            std::thread::scope(|scope| {
                let one = &one;
                let all: Vec<_> =
                    streams.iter().map(|bytes| scope.spawn(move || one(bytes))).collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        } else {
            streams.iter().map(|bytes| one(bytes)).collect()
        };
        let refused = results.iter().enumerate().find_map(|(stream, result)| {
            let error = result.as_ref().err()?;
            Some(Refused { kind: kind(error), stream, record: None })
        });
        let kept = memory.kept();
        if let Some(refused) = refused {
            // nothing of it is left: the store shows what other streams brought, and no more
            let others = results.iter().filter(|result| result.is_ok()).count();
            assert!(
                kept.prepared.is_empty()
                    && kept.states.is_empty()
                    && (others > 0 || kept.visible.is_empty()),
                "{refused:?}"
            );
            return Err(refused);
        }
        let memories =
            kept.visible.iter().map(|(name, places)| (name.clone(), self.bytes(&kept, places)));
        let mut memories: Memories = memories.collect();
        memories.extend(kept.visible_states.iter().cloned());
        memories.sort();
        Ok(memories)
    }

    /// Takes a VMM's stream as a VMM would be given it: what it gets, or why not.
    pub(crate) fn relay(&self, bytes: &[u8], feed: Feed) -> Result<Vec<u8>, &'static str> {
        let (mut site, _) = self.site();
        site.store = Box::new(Discard);
        let mut vmm = tempfile::tempfile_in("/dev/shm").unwrap();
        let out = vmm.try_clone().unwrap().into();
        let sink = VmmSink::new(out, Duration::from_secs(5)).unwrap();
        let (group, mapped, name) = (None, None, None);
        site.vmm = Some(VmmPlace::new(Vmm { sink, group, pool_limit: 1 << 30, mapped, name }));
        let mut answers: Vec<u8> = Vec::new();
        let input = Pieces(feed.each(bytes), &[]);
        let ends = Ends { input, answers: Some(&mut answers), strict: true };
        receive(&site, ends, &|_| {}).map_err(|error| kind(&error))?;
        let mut all = Vec::new();
        vmm.seek(SeekFrom::Start(0)).unwrap();
        vmm.read_to_end(&mut all).unwrap();
        Ok(all)
    }

    fn bytes(&self, kept: &Kept, places: &Places) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(places.pages()).unwrap() * PAGE];
        for (page, out) in (0u64..).zip(all.chunks_mut(PAGE)) {
            match places.get(page).unwrap() {
                Place::Pool { page } => {
                    let at = usize::try_from(page).unwrap() * PAGE;
                    out.copy_from_slice(&kept.pool[at..at + PAGE]);
                }
                Place::Template { file, page } => {
                    self.templates[file as usize].read(page, out).unwrap();
                }
                _ => {}
            }
        }
        all
    }
}

fn kind(error: &ReceiveError) -> &'static str {
    match error {
        ReceiveError::Wire(e) => kind_of_wire(e),
        ReceiveError::Ledger(e) => kind_of_ledger(e),
        ReceiveError::Codec(_) => "packed",
        ReceiveError::NoTemplate { .. } => "template",
        ReceiveError::Aborted(_) => "aborted",
        ReceiveError::NotCommitted => "cut",
        ReceiveError::WaitedTooLong { .. } => "never-arrived",
        ReceiveError::OutOfTurn(_) => "wrong",
        ReceiveError::GroupKept | ReceiveError::NoGroup => "group",
        _ => "another error of the receiver",
    }
}
