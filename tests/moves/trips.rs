//! Any memory, any chain, any transport, any chunking: the same memory at the far end.

use super::*;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use pageherd::base::address::Address;
use pageherd::base::fact::{Frame, Space};
use pageherd::filter::chain::Chain;
use pageherd::migrate::codecs::Codecs;
use pageherd::migrate::receive::{Ends, Received, Site, receive};
use pageherd::migrate::send::{Options, SendVm, send};
use pageherd::migrate::templates::{KnownTemplate, TemplateFile};
use pageherd::source::feed::image::ImageFeed;
use pageherd::store::{Store, herd::Herd, image::Images};
use pageherd::transport::{self, Channel, Drain, Source};
use pageherd::wire::header::Session;
use proptest::prelude::*;
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::IntoRawFd;

/// Pieces in which bytes go and come, one after another and again.
#[derive(Clone, Debug)]
struct Pieces {
    sizes: Vec<usize>,
    at: usize,
}

impl Pieces {
    fn next(&mut self, most: usize) -> usize {
        self.at += 1;
        self.sizes[self.at % self.sizes.len()].min(most)
    }
}

struct In(Box<dyn Source>, Pieces);

impl Read for In {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.1.next(out.len());
        self.0.read(&mut out[..most])
    }
}

impl Source for In {
    fn ready(&mut self) -> bool {
        self.0.ready()
    }
}

struct Out(Box<dyn Drain>, Pieces);

impl Write for Out {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let most = self.1.next(from.len());
        self.0.write(&from[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drain for Out {}

/// A memory whose equal pages are on one frame, as KSM would have it.
#[derive(Debug)]
struct Merged {
    blocks: Vec<(String, u64)>,
    bytes: Vec<u8>,
    frames: Vec<u64>,
}

impl Feed for Merged {
    fn blocks(&self) -> Vec<(String, u64)> {
        self.blocks.clone()
    }

    fn facts(&self, first: u64, out: &mut [Fact]) -> io::Result<()> {
        for (number, fact) in self.frames[usize::try_from(first).unwrap()..].iter().zip(out) {
            let frame = Frame { space: Space::Physical, number: *number };
            *fact = Fact::Frame { frame, shared: true, clean: false };
        }
        Ok(())
    }

    fn read(&self, first: u64, _facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(first).unwrap() * PAGE;
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Medium {
    Pipe,
    Pair,
    Unix,
    Tcp,
    Whole,
    Offset(u64),
    Cat,
}

#[derive(Clone, Debug)]
struct Trip {
    seed: u64,
    /// Pages of each VM, and what its memory is: an image, a herd, frames.
    vms: Vec<(usize, u8)>,
    settle: Vec<&'static str>,
    pack: Vec<&'static str>,
    medium: Medium,
    out: Vec<usize>,
    inn: Vec<usize>,
    images: bool,
    template: bool,
    keyed: bool,
    verify: bool,
    keep: bool,
    one_group: bool,
}

fn trips() -> impl Strategy<Value = Trip> {
    let medium = prop_oneof![
        Just(Medium::Pipe),
        Just(Medium::Pair),
        Just(Medium::Unix),
        Just(Medium::Tcp),
        Just(Medium::Whole),
        (0u64..10_000).prop_map(Medium::Offset),
        Just(Medium::Cat),
    ];
    let settle =
        prop::sample::subsequence(vec!["template", "shared", "same"], 0..=3).prop_shuffle();
    let first = prop::sample::subsequence(vec!["unused", "zero"], 0..=2);
    let settle = (first, settle).prop_map(|(a, b)| [a, b].concat());
    let pack = prop::sample::subsequence(vec!["lz4", "zstd=3", "xor"], 0..=3).prop_shuffle();
    let sizes = || prop::collection::vec(prop_oneof![1usize..8, 1usize..70_000], 1..6);
    let vms = prop::collection::vec((1usize..300, 0u8..3), 1..4);
    (any::<u64>(), vms, settle, pack, medium, sizes(), sizes(), any::<[bool; 6]>()).prop_map(
        |(
            seed,
            vms,
            settle,
            pack,
            medium,
            out,
            inn,
            [images, template, keyed, verify, keep, one],
        )| {
            Trip {
                seed,
                vms,
                settle,
                pack,
                medium,
                out,
                inn,
                images,
                template,
                keyed,
                verify,
                keep,
                one_group: one,
            }
        },
    )
}

fn hashing(trip: &Trip) -> Hashing {
    if trip.keyed { Hashing::keyed(b"a key of the tests") } else { Hashing::Plain }
}

/// Both ends of a medium, opened at once: each may wait for the other.
fn open(medium: Medium, folder: &Folder) -> (Address, Address) {
    let text = |text: String| text.parse::<Address>().unwrap();
    let both = |address: Address| (address.clone(), address);
    match medium {
        Medium::Pipe => {
            nix::unistd::mkfifo(&folder.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            both(text(format!("file:{}", folder.at("pipe"))))
        }
        Medium::Pair => {
            let flags = SockFlag::SOCK_CLOEXEC;
            let (a, b) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap();
            let inherited = |fd| Address::Fd(nix::unistd::dup(fd).unwrap().into_raw_fd());
            (inherited(&a), inherited(&b))
        }
        Medium::Unix => both(text(format!("unix:{}", folder.at("socket")))),
        Medium::Tcp => both(text("tcp:127.0.0.1:0".into())),
        Medium::Whole => both(text(format!("file:{}", folder.at("stream")))),
        Medium::Offset(at) => {
            fs::write(folder.path("stream"), vec![7; usize::try_from(at).unwrap()]).unwrap();
            both(text(format!("file:{},offset={at}", folder.at("stream"))))
        }
        Medium::Cat => {
            let file = text(format!("file:{}", folder.at("stream")));
            (file, text(format!("exec:cat {}", folder.at("stream"))))
        }
    }
}

fn sent(
    trip: &Trip,
    vms: &[SendVm<'_>],
    known: &[KnownTemplate],
    mut medium: Channel,
) -> Vec<String> {
    let chain = [trip.settle.as_slice(), &trip.pack].concat().join(",");
    let chain = if chain.is_empty() { "none".to_owned() } else { chain };
    let options = Options {
        chain: chain.parse::<Chain>().unwrap(),
        keep_filters: trip.keep,
        hashing: hashing(trip),
        templates: known.to_vec(),
        codecs: Codecs::new(3, None),
        still: true,
        live: false,
        remember: 0,
        verify: trip.verify,
        session: Session([5; 16]),
        secret: [7; 32],
        unproven: false,
    };
    let pieces = Pieces { sizes: trip.out.clone(), at: 0 };
    let output = medium.output.take().unwrap();
    medium.output = Some(Box::new(Out(output, pieces.clone())));
    medium.input = medium.input.take().map(|input| Box::new(In(input, pieces)) as _);
    let sent = send(vms, &options, &mut medium, &()).unwrap();
    assert_eq!(sent.confirmed, medium.two_way);
    medium.finish().unwrap();
    sent.vms.iter().map(|vm| vm.digest.to_string()).collect()
}

fn received(trip: &Trip, site: &Site, mut medium: Channel) -> Vec<String> {
    let pieces = Pieces { sizes: trip.inn.clone(), at: 0 };
    let input = In(medium.input.take().unwrap(), pieces);
    let mut answers = medium.output.take();
    let ends = Ends { input, answers: answers.as_mut(), strict: medium.strict };
    let Received::Committed { vms, .. } = receive(site, ends, &|_| ()).unwrap() else { panic!() };
    medium.output = answers;
    medium.finish().unwrap();
    vms.iter().map(|vm| vm.digest.to_string()).collect()
}

/// Memories and feeds of them.
fn make(trip: &Trip, folder: &Folder, template: &[u8]) -> Vec<(Vec<u8>, Box<dyn Feed>)> {
    let mut dice = Dice(trip.seed);
    let mut made: Vec<(Vec<u8>, Box<dyn Feed>)> = Vec::new();
    let mut frames: HashMap<Vec<u8>, u64> = HashMap::new();
    for (number, &(pages, kind)) in trip.vms.iter().enumerate() {
        let mut bytes = dice.memory(pages);
        for page in 0..pages {
            // VMs have pages in common with one another and with the template
            let of: Option<&[u8]> = match (dice.below(4), made.first()) {
                (0, Some((other, _))) => Some(other),
                (1, _) => Some(template),
                _ => None,
            };
            if let Some(of) = of {
                let from = dice.below(of.len() / PAGE) * PAGE;
                bytes[page * PAGE..(page + 1) * PAGE].copy_from_slice(&of[from..from + PAGE]);
            }
        }
        let path = folder.path(&format!("image{number}"));
        let feed: Box<dyn Feed> = if kind == 2 {
            let frames = bytes
                .chunks(PAGE)
                .map(|page| {
                    let next = frames.len() as u64 + 1;
                    *frames.entry(page.to_vec()).or_insert(next)
                })
                .collect();
            let first = 1 + dice.below(pages) as u64;
            let mut blocks =
                vec![("low".to_owned(), first), ("high".to_owned(), pages as u64 - first)];
            blocks.retain(|(_, pages)| *pages > 0);
            Box::new(Merged { blocks, bytes: bytes.clone(), frames })
        } else {
            let file = File::create(&path).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            for (page, content) in bytes.chunks(PAGE).enumerate() {
                // some zeros are holes and some are written
                if content.iter().any(|&byte| byte != 0) || page % 2 == 0 {
                    file.write_all_at(content, (page * PAGE) as u64).unwrap();
                }
            }
            let image = ImageFeed::open(&path).unwrap();
            if kind == 0 { Box::new(image) } else { Box::new(through_herd(&image, folder, number)) }
        };
        made.push((bytes, feed));
    }
    made
}

/// The same memory, in a herd.
fn through_herd(image: &ImageFeed, folder: &Folder, number: usize) -> HerdFeed {
    let dir = folder.path(&format!("herd{number}"));
    let plain = Trip {
        seed: 0,
        vms: Vec::new(),
        settle: vec!["zero", "same"],
        pack: Vec::new(),
        medium: Medium::Whole,
        out: vec![PAGE],
        inn: vec![PAGE],
        images: false,
        template: false,
        keyed: false,
        verify: false,
        keep: true,
        one_group: true,
    };
    let address: Address = format!("file:{}", folder.at("way")).parse().unwrap();
    let vm = SendVm { name: "x".into(), feed: image, foreign: false, group: 0 };
    let options = transport::Options::default();
    sent(&plain, &[vm], &[], transport::connect(&address, &options).unwrap());
    let store = Box::new(Herd::open(&dir, Vec::new()).unwrap());
    let site = Site::new(store, Vec::new(), Codecs::new(1, None), Hashing::Plain, 1 << 20);
    received(&plain, &site, transport::listen(&address, &options).unwrap().accept().unwrap());
    drop(site);
    HerdFeed::open(&HerdVm::find(&dir.join("x")).unwrap()[0]).unwrap()
}

fn travel(trip: &Trip) {
    let folder = Folder::new();
    let template = Dice(trip.seed ^ 77).memory(100);
    fs::write(folder.path("template"), &template).unwrap();
    let made = make(trip, &folder, &template);
    let names: Vec<String> = (0..made.len()).map(|n| format!("vm{n}")).collect();
    let vms: Vec<SendVm<'_>> = made
        .iter()
        .zip(0u32..)
        .map(|((_, feed), n)| SendVm {
            name: names[n as usize].clone(),
            feed: feed.as_ref(),
            foreign: false,
            group: if trip.one_group { 0 } else { n },
        })
        .collect();
    let know = || TemplateFile::open(&folder.path("template")).unwrap();
    let known: Vec<KnownTemplate> =
        if trip.template { vec![know().know(&hashing(trip)).unwrap()] } else { Vec::new() };
    let at = |name: &String| folder.path(&format!("{name}.out"));
    let store: Box<dyn Store> = if trip.images {
        let paths = names.iter().map(|name| (name.clone(), at(name))).collect();
        let templates = known.iter().map(|_| know().file().unwrap()).collect();
        Box::new(Images::new(paths, templates, false))
    } else {
        let maps = known.iter().map(|_| know().as_map_file()).collect();
        Box::new(Herd::open(&folder.path("out"), maps).unwrap())
    };
    let codecs = Codecs::new(3, None);
    let mut site = Site::new(store, known.clone(), codecs, hashing(trip), 1 << 20);
    site.verify = trip.verify;
    let (to, from) = open(trip.medium, &folder);
    let options = transport::Options::default();
    let one_after_the_other =
        matches!(trip.medium, Medium::Whole | Medium::Offset(_) | Medium::Cat);
    let (told, arrived) = if one_after_the_other {
        let told = sent(trip, &vms, &known, transport::connect(&to, &options).unwrap());
        (told, received(trip, &site, transport::listen(&from, &options).unwrap().accept().unwrap()))
    } else {
        std::thread::scope(|scope| {
            // a FIFO is opened by both ends at once
            let early = (!matches!(trip.medium, Medium::Pipe))
                .then(|| transport::listen(&from, &options).unwrap());
            let to = match (&to, &early) {
                (Address::Tcp { .. }, Some(listener)) => listener.local().clone(),
                _ => to.clone(),
            };
            let sending = scope.spawn({
                let (vms, known, options) = (&vms, &known, &options);
                move || sent(trip, vms, known, transport::connect(&to, options).unwrap())
            });
            let mut listener = early.unwrap_or_else(|| transport::listen(&from, &options).unwrap());
            let arrived = received(trip, &site, listener.accept().unwrap());
            (sending.join().unwrap(), arrived)
        })
    };
    drop(site);
    assert_eq!(told, arrived);
    for (((bytes, feed), name), digest) in made.iter().zip(&names).zip(&arrived) {
        assert!(content(feed.as_ref()) == *bytes, "{name} at the source");
        assert_eq!(of_memory(&hashing(trip), bytes).to_string(), *digest);
        let there = if trip.images {
            fs::read(at(name)).unwrap()
        } else {
            in_herd(&folder.path("out"), name)
        };
        assert!(there == *bytes, "{name} at the far end");
    }
    if !trip.images {
        assert_eq!(folder.names("out").len(), made.len() + 3, "maps, pool, journal and lock");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_memory_by_any_chain_any_transport_and_any_pieces_arrives(trip in trips()) {
        travel(&trip);
    }
}

/// What the chains make of them is in the streams: the property would hold of a sender that sends
/// everything as bytes, too.
#[test]
fn what_is_the_same_is_in_the_herd_once() {
    let folder = Folder::new();
    let mut dice = Dice(3);
    let half: Vec<u8> = (0..64).flat_map(|_| dice.page(true)).collect();
    let image: Vec<u8> = [half.clone(), vec![0; 64 * PAGE], half].concat();
    fs::write(folder.path("image"), &image).unwrap();
    let vm = format!("a=image:{}", folder.at("image"));
    for (chain, slots) in [("none", 128), ("zero", 128), ("zero,same", 64), ("unused,same,lz4", 64)]
    {
        let herd = folder.at(chain);
        let said = pass(&["--vm", &vm, "--filters", chain], &["--into", &herd]);
        assert!(in_herd(Path::new(&herd), "a") == image, "{chain}");
        assert_eq!(said["streams"][0]["distinct_pages"], slots, "{chain}: {said}");
    }
}
