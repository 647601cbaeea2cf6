//! Certificates that fit and that do not, peers that say nothing, streams that are cut off.

use super::super::{Listener, connect as dial, listen};
use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::net::{Shutdown, TcpStream};
use std::thread;
use tempfile::TempDir;

/// An authority, and the files of those that it vouches for.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// The files of a peer that is called `names`.
    fn files(&self, who: &str, names: &[&str]) -> TlsFiles {
        let at = |what: &str| self.folder.path().join(format!("{who}.{what}"));
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        fs::write(at("cert"), cert.pem()).unwrap();
        fs::write(at("key"), key.serialize_pem()).unwrap();
        fs::set_permissions(at("key"), fs::Permissions::from_mode(0o600)).unwrap();
        let ca = self.folder.path().join("ca");
        TlsFiles { cert: at("cert"), key: at("key"), ca, name: None }
    }
}

fn options(tls: TlsFiles) -> Options {
    Options { tls: Some(tls), ..Options::default() }
}

fn receiver(tls: TlsFiles) -> Listener {
    listen(&"tls:127.0.0.1:0".parse().unwrap(), &options(tls)).unwrap()
}

/// Both ends of a session.
fn pair(sender: TlsFiles, receiver_files: TlsFiles) -> (Channel, Channel) {
    let mut listener = receiver(receiver_files);
    let at = listener.local().clone();
    let sender = thread::spawn(move || dial(&at, &options(sender)).unwrap());
    let accepted = listener.accept().unwrap();
    (sender.join().unwrap(), accepted)
}

fn trusted() -> (Authority, Channel, Channel) {
    let ca = Authority::new();
    let (a, b) = (ca.files("sender", &["a"]), ca.files("receiver", &["127.0.0.1"]));
    let (sender, receiver) = pair(a, b);
    (ca, sender, receiver)
}

#[test]
fn two_ends_of_one_authority_talk() {
    let (_ca, mut sender, mut receiver) = trusted();
    assert!(sender.two_way && !sender.answered() && !receiver.answered());
    let sent: Vec<u8> =
        (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        let output = sender.output.as_mut().unwrap();
        assert!(output.raw().is_none());
        output.write_all(&copy[..1]).unwrap();
        let mut slices = [&copy[1..10], &[], &copy[10..]].map(IoSlice::new);
        super::super::write_all_vectored(&mut **output, &mut slices).unwrap();
        let mut answer = [0; 4];
        sender.input.as_mut().unwrap().read_exact(&mut answer).unwrap();
        sender.finish().unwrap();
        answer
    });
    let input = receiver.input.as_mut().unwrap();
    let mut got = vec![0; sent.len()];
    input.read_exact(&mut got[..1]).unwrap();
    input.read_exact(&mut got[1..]).unwrap();
    assert!(got == sent);
    receiver.output.as_mut().unwrap().write_all(b"done").unwrap();
    assert_eq!(&writer.join().unwrap(), b"done");
    assert!(receiver.answered(), "the end can be read");
    assert_eq!(receiver.input.as_mut().unwrap().read(&mut [0]).unwrap(), 0);
    receiver.finish().unwrap();
}

#[test]
fn a_reader_that_waits_does_not_stop_a_writer() {
    let (_ca, mut sender, mut receiver) = trusted();
    let mut input = sender.input.take().unwrap();
    let reader = thread::spawn(move || {
        let mut answer = [0; 2];
        input.read_exact(&mut answer).unwrap();
        answer
    });
    let ping = thread::spawn(move || {
        let mut question = [0; 100];
        receiver.input.as_mut().unwrap().read_exact(&mut question).unwrap();
        receiver.output.as_mut().unwrap().write_all(b"ok").unwrap();
        receiver
    });
    // the reader waits already, or will: both must do
    sender.output.as_mut().unwrap().write_all(&[7; 100]).unwrap();
    assert_eq!(&reader.join().unwrap(), b"ok");
    drop(ping.join().unwrap());
}

#[test]
fn an_answer_is_noticed_between_two_frames() {
    let (_ca, mut sender, mut receiver) = trusted();
    receiver.output.as_mut().unwrap().write_all(b"no").unwrap();
    let refuse = thread::spawn(|| receiver.finish());
    while !sender.answered() {
        thread::yield_now();
    }
    let mut answer = String::new();
    sender.input.as_mut().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "no");
    sender.finish().unwrap();
    refuse.join().unwrap().unwrap();
}

#[test]
fn a_stream_that_is_cut_off_is_an_error_and_no_end() {
    let (_ca, mut sender, mut receiver) = trusted();
    sender.output.as_mut().unwrap().write_all(b"half").unwrap();
    drop(sender); // as a killed process does: the kernel closes, TLS does not
    let mut got = Vec::new();
    let error = receiver.input.as_mut().unwrap().read_to_end(&mut got).unwrap_err();
    assert_eq!(got, b"half");
    let error = TransportError::of("?", "read", error);
    assert!(matches!(error, TransportError::PeerGone { .. }), "{error}");
}

#[test]
fn a_receiver_of_another_authority_is_not_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut listener = receiver(theirs.files("receiver", &["127.0.0.1"]));
    let at = listener.local().clone();
    let served = thread::spawn(move || listener.accept().map(drop));
    let error = dial(&at, &options(ours.files("sender", &["a"]))).unwrap_err();
    assert!(matches!(error, TransportError::Tls { .. }), "{error}");
    assert!(matches!(served.join().unwrap(), Err(TransportError::Tls { .. })));
}

#[test]
fn a_receiver_must_have_the_name_that_was_asked_for() {
    let ca = Authority::new();
    let mut listener = receiver(ca.files("receiver", &["host.example"]));
    let at = listener.local().clone();
    let served = thread::spawn(move || [listener.accept().is_ok(), listener.accept().is_ok()]);
    let sender = ca.files("sender", &["a"]);
    let error = dial(&at, &options(sender.clone())).unwrap_err();
    assert!(matches!(error, TransportError::Tls { .. }), "{error}");
    let named = TlsFiles { name: Some("host.example".into()), ..sender.clone() };
    drop(dial(&at, &options(named)).unwrap());
    assert_eq!(served.join().unwrap(), [false, true], "one bad peer does not end the listener");
    let wrong = TlsFiles { name: Some("no name".into()), ..sender };
    assert!(dial(&at, &options(wrong)).unwrap_err().to_string().contains("no host name"));
}

#[test]
fn a_sender_of_another_authority_is_refused_and_reads_why() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut listener = receiver(ours.files("receiver", &["127.0.0.1"]));
    let at = listener.local().clone();
    let served = thread::spawn(move || listener.accept().map(drop));
    let mut stranger = theirs.files("sender", &["a"]);
    stranger.ca = ours.folder.path().join("ca");
    // TLS 1.3: the sender learns of it with the first answer
    let mut channel = dial(&at, &options(stranger)).unwrap();
    assert!(matches!(served.join().unwrap(), Err(TransportError::Tls { .. })));
    assert!(channel.answered());
    let error = channel.input.as_mut().unwrap().read(&mut [0]).unwrap_err();
    let error = TransportError::of("?", "read", error);
    let TransportError::Tls { source: Some(source), .. } = error else { panic!("{error}") };
    assert!(matches!(source, rustls::Error::AlertReceived(_)), "{source}");
}

#[test]
fn a_sender_without_a_certificate_is_refused() {
    let ca = Authority::new();
    let mut listener = receiver(ca.files("receiver", &["127.0.0.1"]));
    let Address::Tls { port, .. } = *listener.local() else { panic!() };
    let roots = authorities(&ca.folder.path().join("ca")).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = thread::spawn(move || {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        rustls::StreamOwned::new(session, socket).read(&mut [0]).is_err()
    });
    let error = listener.accept().unwrap_err();
    assert!(matches!(error, TransportError::Tls { .. }), "{error}");
    assert!(client.join().unwrap());
}

#[test]
fn a_peer_that_does_not_prove_itself_holds_its_place_for_a_limited_time() {
    let ca = Authority::new();
    let files = ca.files("receiver", &["127.0.0.1"]);
    let at = "tls:127.0.0.1:0".parse().unwrap();
    let Identity(config) = server(&at, &options(files)).unwrap();
    let (listener, bound) = tcp::bind(&at, ("127.0.0.1", 0), true).unwrap();
    let begin = |limit: u64| {
        let plain = tcp::next(&listener, "tls", &Options::default()).unwrap();
        let session = ServerConnection::new(config.clone()).unwrap();
        open(plain, session.into(), Duration::from_millis(limit)).unwrap_err()
    };
    // says nothing
    let _idle = TcpStream::connect(bound).unwrap();
    assert!(begin(50).to_string().contains("in time"));
    // says a beginning, a byte at a time
    let mut slow = TcpStream::connect(bound).unwrap();
    let dribble = thread::spawn(move || {
        for byte in [22, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(0)) {
            if slow.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let error = begin(100);
    assert!(matches!(error, TransportError::Tls { .. }), "{error}");
    dribble.join().unwrap();
    // says something else
    let mut clear = TcpStream::connect(bound).unwrap();
    clear.write_all(&[0x55; 4096]).unwrap();
    let error = begin(10_000);
    assert!(matches!(error, TransportError::Tls { source: Some(_), .. }), "{error}");
    // leaves
    TcpStream::connect(bound).unwrap().shutdown(Shutdown::Both).unwrap();
    assert!(matches!(begin(10_000), TransportError::PeerGone { .. }));
}

#[test]
fn a_flipped_bit_on_the_way_is_noticed() {
    let ca = Authority::new();
    let mut listener = receiver(ca.files("receiver", &["127.0.0.1"]));
    let Address::Tls { port, .. } = *listener.local() else { panic!() };
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Address::Tls { host: "127.0.0.1".into(), port: relay.local_addr().unwrap().port() };
    let files = ca.files("sender", &["a"]);
    let sender = thread::spawn(move || {
        let mut channel = dial(&at, &options(files)).unwrap();
        // until the peer that notices has gone
        while channel.output.as_mut().unwrap().write_all(&[1; 1 << 16]).is_ok() {}
    });
    let (mut from, _) = relay.accept().unwrap();
    let mut to = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    let back = thread::spawn(move || io::copy(&mut back_from, &mut back_to).is_ok());
    let forth = thread::spawn(move || {
        let (mut piece, mut passed) = ([0; 4096], 0);
        while let Ok(bytes @ 1..) = from.read(&mut piece) {
            if (20_000..28_000).contains(&passed) {
                piece[bytes / 2] ^= 1;
            }
            passed += bytes;
            if to.write_all(&piece[..bytes]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
    });
    let mut channel = listener.accept().unwrap();
    let error = io::copy(channel.input.as_mut().unwrap(), &mut io::sink()).unwrap_err();
    let error = TransportError::of("?", "read", error);
    assert!(matches!(error, TransportError::Tls { .. }), "{error}");
    assert!(channel.answered());
    assert!(channel.input.as_mut().unwrap().read(&mut [0]).is_err(), "and stays an error");
    drop(channel);
    forth.join().unwrap();
    sender.join().unwrap();
    back.join().unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let ca = Authority::new();
    let good = ca.files("receiver", &["127.0.0.1"]);
    let at: Address = "tls:127.0.0.1:0".parse().unwrap();
    let wrong = |files: TlsFiles| server(&at, &options(files)).unwrap_err().to_string();
    let error = server(&at, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("--tls-cert, --tls-key"), "{error}");
    let missing = ca.folder.path().join("missing");
    let error = wrong(TlsFiles { cert: missing, ..good.clone() });
    assert!(error.contains("missing: cannot open it"), "{error}");
    let error = wrong(TlsFiles { cert: good.key.clone(), ..good.clone() });
    assert!(error.contains("no certificate"), "{error}");
    let other = ca.files("other", &["x"]);
    let error = wrong(TlsFiles { key: other.key, ..good.clone() });
    assert!(error.contains("cannot be used"), "{error}");
    let error = wrong(TlsFiles { ca: "/dev/zero".into(), ..good.clone() });
    assert!(error.contains("/dev/zero"), "{error}");
    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = wrong(good);
    assert!(error.contains("chmod o="), "{error}");
}

#[test]
fn a_peer_that_hangs_is_stalled() {
    let ca = Authority::new();
    let mut listener = receiver(ca.files("receiver", &["127.0.0.1"]));
    let at = listener.local().clone();
    let files = ca.files("sender", &["a"]);
    let sender = thread::spawn(move || {
        let stall_timeout = Some(Duration::from_millis(300));
        dial(&at, &Options { stall_timeout, ..options(files) }).unwrap()
    });
    let _silent = listener.accept().unwrap();
    let mut sender = sender.join().unwrap();
    let error = sender.input.as_mut().unwrap().read(&mut [0]).unwrap_err();
    assert!(matches!(TransportError::of("?", "read", error), TransportError::Stalled { .. }));
    let error = loop {
        if let Err(error) = sender.output.as_mut().unwrap().write_all(&[0; 1 << 18]) {
            break error;
        }
    };
    assert!(matches!(TransportError::of("?", "write", error), TransportError::Stalled { .. }));
}
