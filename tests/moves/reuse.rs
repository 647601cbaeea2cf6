//! Frames that are freed and used again while a migration runs: a frame's number is no proof.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pageherd::base::address::Address;
use pageherd::base::target::Target;
use pageherd::filter::chain::Chain;
use pageherd::migrate::codecs::Codecs;
use pageherd::migrate::receive::{Ends, ReceiveError, Received, Site, receive};
use pageherd::migrate::send::{Options, SendError, SendVm, Sent, Watch, send};
use pageherd::source::feed;
use pageherd::source::resolve::find;
use pageherd::store::herd::Herd;
use pageherd::transport;
use pageherd::wire::header::Session;
use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

const PAGES: u64 = 2048;

/// A holder with a child, so that its frames are mapped twice and count as shared.
fn pair() -> Holder {
    Holder::beside_others(&["fork=1", &format!("anon:{PAGES}")])
}

fn feed_of(target: &str) -> feed::Opened {
    let target: Target = target.parse().unwrap();
    let (mut found, _) = find(&[target]).unwrap();
    feed::open(found.remove(0)).unwrap().1
}

fn frames(feed: &dyn Feed) -> BTreeSet<u64> {
    let mut facts = vec![Fact::Unknown; usize::try_from(PAGES).unwrap()];
    feed.facts(0, &mut facts).unwrap();
    let frame = |fact: &Fact| match fact {
        Fact::Frame { frame, .. } => Some(frame.number),
        _ => None,
    };
    facts.iter().filter_map(frame).collect()
}

/// VM b, which comes to be when the sender first looks at it: that is after it has read all of VM
/// a. At that moment a gives its frames back, and b's are made of them.
#[derive(Debug)]
struct Late {
    /// Asks the test for b, with the end of its link. A holder ends with the thread that started it,
    /// so that the sender's own threads cannot.
    ask: Mutex<Sender<Sender<feed::Opened>>>,
    b: OnceLock<feed::Opened>,
}

impl Late {
    fn feed(&self) -> &dyn Feed {
        let opened = self.b.get_or_init(|| {
            let (give, take) = channel();
            self.ask.lock().unwrap().send(give).unwrap();
            take.recv().unwrap()
        });
        opened.feed()
    }
}

/// A zombie has no memory any more.
fn ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

impl Feed for Late {
    fn blocks(&self) -> Vec<(String, u64)> {
        vec![("ram".to_owned(), PAGES)]
    }

    fn facts(&self, first: u64, out: &mut [Fact]) -> io::Result<()> {
        self.feed().facts(first, out)
    }

    fn read(&self, first: u64, facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        self.feed().read(first, facts, out)
    }
}

fn options(unproven: bool) -> Options {
    Options {
        chain: "unused,shared".parse::<Chain>().unwrap(),
        keep_filters: true,
        hashing: Hashing::Plain,
        templates: Vec::new(),
        codecs: Codecs::new(1, None),
        still: true,
        live: false,
        remember: 0,
        verify: false,
        session: Session([9; 16]),
        secret: [7; 32],
        unproven,
    }
}

/// Sends VMs into a new herd by a file.
fn into_herd(
    folder: &Folder,
    vms: &[SendVm<'_>],
    options: &Options,
    watch: &dyn Watch,
) -> Result<(Sent, Result<Received, ReceiveError>), SendError> {
    let address: Address = format!("file:{}", folder.at("stream")).parse().unwrap();
    let open = transport::Options::default();
    let mut medium = transport::connect(&address, &open).unwrap();
    let sent = send(vms, options, &mut medium, watch)?;
    medium.finish().unwrap();
    let store = Box::new(Herd::open(&folder.path("herd"), Vec::new()).unwrap());
    let site = Site::new(store, Vec::new(), Codecs::new(1, None), Hashing::Plain, 1 << 20);
    let mut medium = transport::listen(&address, &open).unwrap().accept().unwrap();
    let input = medium.input.take().unwrap();
    let ends = Ends { input, answers: medium.output.as_mut(), strict: true };
    Ok((sent, receive(&site, ends, &|_| ())))
}

/// Sends a, has b take its frames, sends b. How many frames were used again, how many pages of b
/// were settled by their frames, and is b right at the far end?
fn reused(unproven: bool) -> (usize, u64, bool) {
    let folder = Folder::new();
    let mut a = pair();
    let opened = feed_of(&a.target("a", 0));
    let (before, content_of_a) = (frames(opened.feed()), region_of(&a, a.pid, 0));
    let (ask, asked) = channel::<Sender<feed::Opened>>();
    let late = Late { ask: Mutex::new(ask), b: OnceLock::new() };
    let vm = |name: &str, feed| SendVm { name: name.into(), feed, foreign: false, group: 0 };
    let vms = [vm("a", opened.feed()), vm("b", &late)];
    let (sent, b) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| into_herd(&folder, &vms, &options(unproven), &()));
        let wants = asked.recv_timeout(LONG).unwrap();
        // a's child goes, its own pages are discarded: nobody has the frames any more
        kill(Pid::from_raw(a.children[0]), Signal::SIGKILL).unwrap();
        wait_for("the child's end", LONG, || ended(a.children[0]));
        a.tell(&format!("discard 0 {PAGES}"));
        let b = pair();
        wants.send(feed_of(&b.target("b", 0))).unwrap();
        (sending.join().unwrap(), b)
    });
    let (sent, received) = sent.unwrap();
    // with or without the proof, both ends believe the stream: only b itself can tell
    received.unwrap();
    let shared = sent.filters.iter().find(|account| account.filter == "shared").unwrap().pages;
    let after = frames(late.feed());
    let there = in_herd(&folder.path("herd"), "b");
    assert!(in_herd(&folder.path("herd"), "a") == content_of_a, "a was read before");
    (before.intersection(&after).count(), shared, there == region_of(&b, b.pid, 0))
}

#[test]
fn a_frame_used_again_between_two_vms_is_noticed_and_would_be_wrong_without_the_proof() {
    let forced = |unproven: bool| {
        for _ in 0..10 {
            let tried = reused(unproven);
            if tried.0 > 0 {
                return tried;
            }
        }
        panic!("the kernel did not use one of {PAGES} frames again in ten tries")
    };
    let (again, shared, right) = forced(false);
    assert!(right, "b is wrong though {again} frames were used again");
    assert_eq!(shared, 0);
    let (again, shared, right) = forced(true);
    assert!(!right && shared > 0, "the test has no teeth: {again} frames, {shared} settled");
}

/// What says that memory stood still says that it did not.
struct Moved;

impl Watch for Moved {
    fn stood_still(&self) -> Result<(), String> {
        Err("it has run".to_owned())
    }
}

#[test]
fn memory_that_moved_is_not_sent_to_its_end() {
    let folder = Folder::new();
    let holder = Holder::new(&["fork=1", "anon:500,rush"]);
    let opened = feed_of(&holder.target("a", 0));
    let child = feed_of(&holder.target_of("b", holder.children[0], 0));
    let vm = |name: &str, feed| SendVm { name: name.into(), feed, foreign: false, group: 0 };
    let vms = [vm("a", opened.feed()), vm("b", child.feed())];
    let error = into_herd(&folder, &vms, &options(false), &Moved).unwrap_err();
    assert!(error.to_string().contains("it has run"), "{error}");
    assert!(!folder.path("stream").exists());
    // and without a word of it: a child that stands still is right, whatever its parent does
    for _ in 0..5 {
        let folder = Folder::new();
        let (_, received) = into_herd(&folder, &vms, &options(false), &()).unwrap();
        received.unwrap();
        let there = in_herd(&folder.path("herd"), "b");
        assert!(there == region_of(&holder, holder.children[0], 0));
    }
}

/// Somebody lets the process go while it is sent.
#[test]
fn a_process_that_ran_while_it_was_sent_is_refused() {
    let holder = Holder::new(&["anon:600,tick"]);
    for attempt in 0..3 {
        let folder = Folder::new();
        let receiver = listening(&folder.path("s"), &["--into", &folder.at("h")]);
        let (vm, to) = (holder.target("a", 0), format!("unix:{}", folder.at("s")));
        let mut args = vec!["--vm", &vm, "--to", &to, "--rate", "3M", "--filters", "none"];
        if attempt == 1 {
            args.push("--move");
        }
        let sender = Run::new(mig_send(&args));
        wait_for("it to be stopped", LONG, || is_stopped(holder.pid));
        std::thread::sleep(Duration::from_millis(100));
        kill(Pid::from_raw(holder.pid), Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        if attempt == 2 {
            // and stops it again, so that at the end it looks as it should
            kill(Pid::from_raw(holder.pid), Signal::SIGSTOP).unwrap();
        }
        let (sent, received) = (sender.end(), receiver.end());
        assert_eq!(code(&sent), 1, "{}", words(&sent));
        assert!(said(&sent).contains("has run while it was to stand still"), "{}", words(&sent));
        assert_eq!(code(&received), 69, "{}", words(&received));
        assert_eq!(folder.names("h"), ["journal", "lock", "pool"]);
        wait_for("it to run", LONG, || !is_stopped(holder.pid));
    }
}
