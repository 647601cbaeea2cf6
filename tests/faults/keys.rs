//! Keys and certificates that do not fit.

use crate::matrix::Rows;
use crate::scene::Scene;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

const ONE: &[u8] = b"0123456789abcdef";
const OTHER: &[u8] = b"0123456789abcdeF";

pub(crate) fn add(rows: &mut Rows) {
    for (point, send, recv, word) in [
        ("another at each end", Some(ONE), Some(OTHER), "another key"),
        ("at the sender alone", Some(ONE), None, "with a key"),
        ("at the receiver alone", None, Some(ONE), "without a key"),
    ] {
        rows.add("key", "unix", point, "send 77 recv 77", move |scene| {
            let flags = |scene: &mut Scene, name: &str, key: Option<&[u8]>| {
                key.map_or_else(Vec::new, |key| vec!["--key".to_owned(), scene.file(name, key)])
            };
            let (send_key, recv_key) = (flags(scene, "k1", send), flags(scene, "k2", recv));
            let herd = scene.herd("h");
            let mut args = vec!["--into", &herd];
            args.extend(recv_key.iter().map(String::as_str));
            let (receiver, to) = scene.listen(&args);
            let image = format!("a=image:{}", scene.image("img", 16));
            let mut args = vec!["--vm", &image, "--to", &to];
            args.extend(send_key.iter().map(String::as_str));
            let send = scene.run(&mut scene.send(&args));
            format!("send {} recv {}", send.says(&[word]), receiver.end().says(&[word]))
        });
        rows.add("key", "file", point, "77", move |scene| {
            let key = |scene: &mut Scene, name: &str, key: Option<&[u8]>| {
                key.map(|key| scene.file(name, key))
            };
            let (k1, k2) = (key(scene, "k1", send), key(scene, "k2", recv));
            let flags = k1.iter().flat_map(|k| ["--key", k.as_str()]).collect::<Vec<_>>();
            let (file, _) = scene.stream("x", 16, &flags);
            let (herd, from) = (scene.herd("h"), format!("file:{file}"));
            let mut args = vec!["--into", &herd, "--from", &from];
            args.extend(k2.iter().flat_map(|k| ["--key", k.as_str()]));
            scene.run(&mut scene.recv(&args)).says(&[word])
        });
    }
    for (point, send, recv, expected) in [
        ("one authority", "good", "good", "send 0 recv 0"),
        ("a sender of another authority", "stranger", "good", "send 69 recv 69"),
        ("a receiver of another authority", "good", "stranger", "send 69 recv 69"),
        ("a receiver of another name", "good", "misnamed", "send 69 recv 69"),
        ("a sender without tls", "none", "good", "send 69 recv 69"),
        ("a receiver without tls", "good", "none", "send 69 recv 65"),
    ] {
        rows.add("certificate", "tls", point, expected, move |scene| tls(scene, send, recv));
    }
    for part in ["sender", "receiver"] {
        for moment in [200, 500, 900] {
            let point = format!("the {part} is killed after {moment} ms");
            rows.add("killed", "tls", point, "the other 69", move |scene| {
                let ca = Authority::new(scene, "one");
                let (s, r) = (ca.flags(scene, "s", "127.0.0.1"), ca.flags(scene, "r", "127.0.0.1"));
                let herd = scene.herd("h");
                let mut command = scene.recv(&["--into", &herd, "--from", "tls:127.0.0.1:0"]);
                let receiver = scene.start(command.args(&r));
                let to = format!("tls:127.0.0.1:{}", port_of(receiver.pid()));
                let vm = format!("a=image:{}", scene.image("img", 512));
                let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
                let sender = scene.start(scene.send(&args).args(&s));
                sleep(Duration::from_millis(moment));
                let (killed, other) = match part {
                    "sender" => (sender, receiver),
                    _ => (receiver, sender),
                };
                killed.signal(nix::sys::signal::Signal::SIGKILL);
                killed.end();
                let out = other.end().says(&["gone", "trust", "answer", "connect"]);
                format!("the other {out}")
            });
        }
    }
    for (point, code, word) in [
        ("a key that others may read", 77, "chmod"),
        ("a certificate that is none", 65, "cert"),
        ("a key that is none", 65, "key"),
        ("an authority that is none", 65, "ca"),
        ("a key of another certificate", 65, "key"),
    ] {
        rows.add("certificate", "tls", point, code.to_string(), move |scene| {
            let ca = Authority::new(scene, "one");
            let mut flags = ca.flags(scene, "good", "127.0.0.1");
            match point {
                "a key that others may read" => {
                    fs::set_permissions(&flags[3], fs::Permissions::from_mode(0o644)).unwrap();
                }
                "a certificate that is none" => fs::write(&flags[1], "nothing").unwrap(),
                "a key that is none" => fs::write(&flags[3], "nothing").unwrap(),
                "an authority that is none" => fs::write(&flags[5], "nothing").unwrap(),
                _ => flags[3] = ca.flags(scene, "second", "127.0.0.1")[3].clone(),
            }
            let mut args = vec!["--discard", "--from", "tls:127.0.0.1:0"];
            args.extend(flags.iter().map(String::as_str));
            scene.run(&mut scene.recv(&args)).says(&[word])
        });
    }
}

/// One who vouches for others.
struct Authority {
    name: &'static str,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(scene: &mut Scene, name: &'static str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        scene.file(&format!("{name}.ca"), issuer.pem().as_bytes());
        Self { name, issuer }
    }

    /// The flags of one for whom it vouches under `name`: certificate, key, authority.
    fn flags(&self, scene: &mut Scene, who: &str, name: &str) -> [String; 6] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let cert = scene.file(&format!("{}.{who}.cert", self.name), cert.pem().as_bytes());
        let file = scene.file(&format!("{}.{who}.key", self.name), key.serialize_pem().as_bytes());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let ca = scene.path(&format!("{}.ca", self.name));
        ["--tls-cert".into(), cert, "--tls-key".into(), file, "--tls-ca".into(), ca]
    }
}

fn tls(scene: &mut Scene, send: &str, recv: &str) -> String {
    let (one, two) = (Authority::new(scene, "one"), Authority::new(scene, "two"));
    let files = |scene: &mut Scene, who: &str, kind: &str| match kind {
        "good" => one.flags(scene, who, "127.0.0.1").to_vec(),
        "misnamed" => one.flags(scene, who, "other.example").to_vec(),
        "stranger" => two.flags(scene, who, "127.0.0.1").to_vec(),
        _ => Vec::new(),
    };
    let kind = |which: &str| if which == "none" { "tcp" } else { "tls" };
    let (send_files, recv_files) = (files(scene, "s", send), files(scene, "r", recv));
    let image = format!("a=image:{}", scene.image("img", 16));
    let from = format!("{}:127.0.0.1:0", kind(recv));
    let mut command = scene.recv(&["--discard", "--from", &from, "--stall", "5"]);
    command.args(&recv_files);
    let receiver = scene.start(&mut command);
    let to = format!("{}:127.0.0.1:{}", kind(send), port_of(receiver.pid()));
    let mut command = scene.send(&["--vm", &image, "--to", &to, "--stall", "5"]);
    command.args(&send_files);
    let send = scene.run(&mut command);
    format!("send {} recv {}", send.says(&[]), receiver.end().says(&[]))
}

/// The port at which a process listens, by its table of connections: with `--quiet` it does not say.
pub(crate) fn port_of(pid: i32) -> u16 {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let own: Vec<String> = links
            .filter_map(|link| fs::read_link(link.path()).ok()?.to_str().map(str::to_owned))
            .filter_map(|to| Some(to.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[3] == "0A" && own.iter().any(|inode| inode == words[9]) {
                return u16::from_str_radix(words[1].rsplit(':').next().unwrap(), 16).unwrap();
            }
        }
        sleep(Duration::from_millis(5));
    }
    panic!("process {pid} does not listen");
}
