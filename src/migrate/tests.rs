//! Both ends against one another, with memory that tests make up.

use super::codecs::Codecs;
use super::receive::{Ends, Received, Site, receive};
use super::send::{Options, SendVm, Sent, Watch, send};
use crate::base::address::Address;
use crate::base::digest::{Hashing, of_memory};
use crate::base::fact::Fact;
use crate::filter::bill::Account;
use crate::source::feed::{Feed, herd::HerdFeed};
use crate::source::herd::HerdVm;
use crate::store::herd::Herd;
use crate::transport::{self, connect, listen};
use crate::wire::header::Session;
use std::io;
use std::path::Path;
use std::sync::Mutex;

/// Memory of ours, that changes when it is told to.
#[derive(Debug)]
struct Made(Mutex<Vec<u8>>);

impl Made {
    fn new(pages: impl IntoIterator<Item = [u8; 4096]>) -> Self {
        Self(Mutex::new(pages.into_iter().flatten().collect()))
    }

    fn all(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Feed for Made {
    fn blocks(&self) -> Vec<(String, u64)> {
        vec![("ram".to_owned(), self.all().len() as u64 / 4096)]
    }

    fn facts(&self, _first: u64, out: &mut [Fact]) -> io::Result<()> {
        out.fill(Fact::Unknown);
        Ok(())
    }

    fn read(&self, first: u64, _facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(first).unwrap() * 4096;
        out.copy_from_slice(&self.0.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }
}

/// Changes memory between the rounds.
struct Changing<'a>(&'a Made, Vec<(usize, u8)>);

impl Watch for Changing<'_> {
    fn hold(&self) -> Result<(), String> {
        let mut memory = self.0.0.lock().unwrap();
        self.1.iter().for_each(|&(at, byte)| memory[at] = byte);
        Ok(())
    }
}

fn options(chain: &str, live: bool) -> Options {
    Options {
        chain: chain.parse().unwrap(),
        keep_filters: true,
        remember: 1 << 26,
        hashing: Hashing::Plain,
        templates: Vec::new(),
        codecs: Codecs::new(1, None),
        still: true,
        live,
        verify: false,
        session: Session([7; 16]),
        secret: [7; 32],
        unproven: false,
    }
}

/// Moves VMs into the herd `dir` over a unix socket.
fn move_to(
    dir: &Path,
    vms: &[SendVm<'_>],
    options: &Options,
    watch: &dyn Watch,
) -> (Sent, Received) {
    let address = Address::Unix(dir.with_extension("sock"));
    let plain = transport::Options::default();
    let mut listener = listen(&address, &plain).unwrap();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let herd = Box::new(Herd::open(dir, Vec::new()).unwrap());
            let site = Site::new(herd, Vec::new(), Codecs::new(1, None), Hashing::Plain, 1 << 20);
            let mut medium = listener.accept().unwrap();
            let (mut input, mut output) = (medium.input.take().unwrap(), medium.output.take());
            let ends = Ends { input: &mut input, answers: output.as_mut(), strict: true };
            receive(&site, ends, &|_| {})
        });
        let mut medium = connect(&address, &plain).unwrap();
        let sent = send(vms, options, &mut medium, watch);
        drop(medium);
        let received = receiving.join().unwrap();
        (sent.unwrap(), received.unwrap())
    })
}

fn vm<'a>(name: &str, feed: &'a dyn Feed) -> SendVm<'a> {
    SendVm { name: name.to_owned(), feed, foreign: false, group: 0 }
}

fn content(dir: &Path, name: &str) -> Vec<u8> {
    let found = HerdVm::find(&dir.join(name)).unwrap().remove(0);
    let feed = HerdFeed::open(&found).unwrap();
    let pages = feed.blocks().iter().map(|b| b.1).sum::<u64>();
    let mut bytes = vec![0; usize::try_from(pages).unwrap() * 4096];
    feed.read(0, &vec![Fact::Unknown; usize::try_from(pages).unwrap()], &mut bytes).unwrap();
    bytes
}

fn account(sent: &Sent, name: &str) -> Account {
    sent.filters.iter().find(|account| account.filter == name).cloned().unwrap_or_default()
}

/// 600 pages: every third zero, every fifth like page 5, the others of their own.
fn pages() -> impl Iterator<Item = [u8; 4096]> {
    (0..600u32).map(|number| {
        let mut page = [0u8; 4096];
        match number {
            n if n % 3 == 0 => {}
            n if n % 5 == 0 => page.fill(5),
            n => {
                for (i, word) in page.chunks_mut(4).enumerate() {
                    let i = u32::try_from(i).unwrap();
                    word.copy_from_slice(&(n * 1024 + i / 8).to_le_bytes());
                }
            }
        }
        page
    })
}

#[test]
fn memory_arrives_as_it_is_by_every_chain() {
    for chain in ["none", "zero", "zero,same", "unused,zero,shared,lz4", "zero,same,zstd=3", "zstd"]
    {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let herd = dir.path().join("herd");
        let memory = Made::new(pages());
        let other = Made::new(pages().skip(100).take(300));
        let vms = [vm("a", &memory), vm("b", &other)];
        let (sent, received) = move_to(&herd, &vms, &options(chain, false), &());
        assert!(sent.confirmed);
        assert!(
            content(&herd, "a") == memory.all() && content(&herd, "b") == other.all(),
            "{chain}"
        );
        assert_eq!(sent.vms[0].digest, of_memory(&Hashing::Plain, &memory.all()));
        let Received::Committed { slots, .. } = received else { panic!("{received:?}") };
        if chain.contains("same") {
            assert_eq!(slots, 600 - 200 - 80 + 1, "each distinct page stands in the pool once");
        }
    }
}

#[test]
fn what_changes_while_it_is_sent_is_sent_again_and_the_difference_alone() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let herd = dir.path().join("herd");
    let memory = Made::new(pages());
    // a zero page that gets content, pages in the middle of others, one that is referred to
    let changes = vec![(4096 * 3 + 7, 1), (4096 * 100, 9), (4096 * 101 + 4095, 9), (4096 * 5, 77)];
    let watch = Changing(&memory, changes);
    let (sent, _) =
        move_to(&herd, &[vm("a", &memory)], &options("zero,same,xor,zstd", true), &watch);
    assert!(content(&herd, "a") == memory.all());
    assert_eq!(sent.vms[0].digest, of_memory(&Hashing::Plain, &memory.all()));
    let xor = account(&sent, "xor");
    assert!(xor.pages >= 2 && xor.saved_bytes > 2 * 4000, "{:?}", sent.filters);
}
