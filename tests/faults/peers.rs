//! Peers that do not keep to the protocol, come twice or too many.

use crate::frames::{Frames, answers, frame};
use crate::matrix::Rows;
use crate::media::{declared, next_frame};
use crate::scene::{Out, Proc, Scene, memory};
use pageherd::wire::answer::{Answer, Refusal};
use pageherd::wire::header::Session;
use pageherd::wire::record::tag;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::sleep;
use std::time::Duration;

pub(crate) fn add(rows: &mut Rows) {
    answering(rows);
    committing(rows);
    senders(rows);
    several(rows);
}

/// A sender of 64 pages that is connected to us, and our end.
fn connected(scene: &mut Scene, flags: &[&str]) -> (Proc, UnixStream) {
    let path = scene.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let vm = format!("a=image:{}", scene.image("img", 64));
    let to = format!("unix:{path}");
    let sender = scene.start(&mut scene.send(&[&["--vm", &vm, "--to", &to], flags].concat()));
    let (socket, _) = listener.accept().unwrap();
    fs::remove_file(&path).unwrap();
    (sender, socket)
}

/// Answers that make no sense, each where a welcome should be.
fn answering(rows: &mut Rows) {
    type Words = fn([u8; 16]) -> Vec<u8>;
    let cases: [(&str, Words, i32); 12] = [
        ("text", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(9), 65),
        ("zeros", |_| vec![0; 1000], 65),
        ("nothing and the end", |_| Vec::new(), 69),
        ("half a header", |s| answers(s).header()[..30].to_vec(), 69),
        ("a header alone", |s| answers(s).header().to_vec(), 69),
        ("a header of another session", |_| said([9; 16], &[Answer::Welcome]), 65),
        ("a stream's header", |_| Frames::new(0, &[]).bytes(), 65),
        ("a commit at once", |s| said(s, &[Answer::Committed(Session(s))]), 65),
        ("a seal at once", |s| said(s, &[Answer::Sealed([1; 16])]), 65),
        (
            "an unknown answer",
            |s| {
                let header = *answers(s).header();
                [header.to_vec(), frame(&header, 0, 99, &[])].concat()
            },
            65,
        ),
        (
            "a false checksum",
            |s| {
                let mut bytes = said(s, &[Answer::Welcome]);
                *bytes.last_mut().unwrap() ^= 1;
                bytes
            },
            65,
        ),
        ("an answer of 4 GiB", |s| [answers(s).header().to_vec(), vec![0xff; 12]].concat(), 65),
    ];
    for (point, words, code) in cases {
        rows.add("answer", "unix", point, code.to_string(), move |scene| {
            let (sender, mut socket) = connected(scene, &[]);
            let (header, _) = declared(&mut socket);
            let _ = socket.write_all(&words(header[32..48].try_into().unwrap()));
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let out = sender.end();
            drop(socket);
            out.says(&["answer", "gone", "something else"])
        });
    }
    for (refusal, code) in
        [(Refusal::Data, 65), (Refusal::Io, 74), (Refusal::Policy, 77), (Refusal::Other, 1)]
    {
        rows.add(
            "refusal",
            "unix",
            format!("of code {}", refusal as u8),
            code.to_string(),
            move |scene| {
                let (sender, mut socket) = connected(scene, &[]);
                let (header, _) = declared(&mut socket);
                let why = Answer::Refused(refusal, "no\x1b[2J\nway".into());
                socket.write_all(&said(header[32..48].try_into().unwrap(), &[why])).unwrap();
                let out = sender.end();
                out.says(&["the receiver refuses: no?[2J?way"])
            },
        );
    }
    rows.add("refusal", "unix", "in the middle of the pages", "77", |scene| {
        let (sender, mut socket) = connected(scene, &["--rate", "100k", "--filters", "none"]);
        let (header, _) = declared(&mut socket);
        let session = header[32..48].try_into().unwrap();
        let mut bytes =
            said(session, &[Answer::Welcome, Answer::Refused(Refusal::Policy, "enough".into())]);
        let rest = bytes.split_off(64 + 16);
        socket.write_all(&bytes).unwrap();
        socket.read_exact(&mut [0; 1000]).unwrap();
        socket.write_all(&rest).unwrap();
        // as a receiver that refuses: it takes what still comes, for a while
        let drain = std::thread::spawn(move || std::io::copy(&mut socket, &mut std::io::sink()));
        let got = sender.end().says(&["refuses: enough"]);
        let _ = drain.join();
        got
    });
}

fn said(session: [u8; 16], all: &[Answer]) -> Vec<u8> {
    let mut encoder = answers(session);
    let mut bytes = encoder.header().to_vec();
    all.iter().for_each(|answer| bytes.extend(encoder.answer(answer)));
    bytes
}

/// A receiver of ours, up to the moment at which it is told to commit.
fn up_to_seal(socket: &mut UnixStream) -> (pageherd::wire::Encoder, [u8; 16], [u8; 16]) {
    let (header, _) = declared(socket);
    let session = header[32..48].try_into().unwrap();
    let mut encoder = answers(session);
    let welcome = encoder.answer(&Answer::Welcome);
    socket.write_all(&[encoder.header().to_vec(), welcome].concat()).unwrap();
    loop {
        let (kind, body) = next_frame(socket).unwrap();
        if kind == tag::SEAL {
            return (encoder, session, body.try_into().unwrap());
        }
    }
}

/// Receivers that fail around the commit: who owns the memory then?
fn committing(rows: &mut Rows) {
    for (point, code, held, word) in [
        ("the end before the seal is answered", 69, false, ""),
        ("another seal", 65, false, "something else than was sent"),
        ("a refusal for an answer to the seal", 77, false, "refuses"),
        ("the end after it was told to commit", 75, true, "--resolve"),
        ("garbage after it was told to commit", 75, true, "--resolve"),
        ("another session committed", 75, true, "--resolve"),
        ("silence after it was told to commit", 75, true, "--resolve"),
        ("a refusal after it was told to commit", 77, false, "refuses"),
        ("committed", 0, true, ""),
        ("committed, and then garbage", 0, true, ""),
    ] {
        let state = if held { "held" } else { "runs" };
        rows.add(
            "commit",
            "unix, --move",
            point,
            format!("{code}, the source {state}"),
            move |scene| {
                let holder = crate::support::Holder::new(&["anon:32"]);
                let path = scene.path("socket");
                let listener = UnixListener::bind(&path).unwrap();
                let (vm, to) = (holder.target("a", 0), format!("unix:{path}"));
                let args = ["--move", "--vm", &vm, "--to", &to, "--stall", "1"];
                let sender = scene.start(&mut scene.send(&args));
                let (mut socket, _) = listener.accept().unwrap();
                fs::remove_file(&path).unwrap();
                let (mut encoder, session, seal) = up_to_seal(&mut socket);
                let told = |socket: &mut UnixStream, encoder: &mut pageherd::wire::Encoder| {
                    socket.write_all(&encoder.answer(&Answer::Sealed(seal))).unwrap();
                    assert_eq!(next_frame(socket).unwrap().0, tag::COMMIT);
                };
                let refused = Answer::Refused(Refusal::Policy, "no".into());
                match point {
                    "another seal" => pour(&socket, &encoder.answer(&Answer::Sealed([0; 16]))),
                    "a refusal for an answer to the seal" => {
                        pour(&socket, &encoder.answer(&refused));
                    }
                    "the end before the seal is answered" => {}
                    _ => {
                        told(&mut socket, &mut encoder);
                        let committed = |session| Answer::Committed(Session(session));
                        let answer = match point {
                            "another session committed" => encoder.answer(&committed([9; 16])),
                            "a refusal after it was told to commit" => encoder.answer(&refused),
                            "committed" => encoder.answer(&committed(session)),
                            "committed, and then garbage" => {
                                [encoder.answer(&committed(session)), vec![7; 100]].concat()
                            }
                            "garbage after it was told to commit" => vec![7; 100],
                            _ => Vec::new(),
                        };
                        pour(&socket, &answer);
                        if point.starts_with("silence") {
                            sleep(Duration::from_millis(1500));
                        }
                    }
                }
                drop(socket);
                let out = sender.end();
                let stopped = crate::scene::is_stopped(holder.pid);
                let frozen = !stopped && is_frozen(holder.pid);
                release(holder.pid);
                let state = if stopped || frozen { "held" } else { "runs" };
                format!("{}, the source {state}", out.says(&[word]))
            },
        );
    }
    rows.add("resolve", "unix", "a receiver without a herd", "77", |scene| {
        let (receiver, to) = scene.listen(&["--discard"]);
        let out = resolve(scene, &to);
        format!("{}{}", out.says(&["only a herd remembers"]), or_else(&receiver.end(), 77))
    });
    rows.add(
        "resolve",
        "unix",
        "a session that was never heard of",
        "aborted, and the receiver 0",
        |scene| {
            let herd = scene.herd("h");
            let (receiver, to) = scene.listen(&["--into", &herd]);
            let out = resolve(scene, &to);
            format!(
                "{}, and the receiver {}",
                out.whole().replace("0: ", "").trim(),
                receiver.end().says(&[])
            )
        },
    );
    rows.add(
        "resolve",
        "unix",
        "a stream whose session was given up",
        "send 77 recv 77",
        |scene| {
            let herd = scene.herd("h");
            let (file, _) = scene.stream("x", 16, &[]);
            let bytes = fs::read(&file).unwrap();
            let session: String = bytes[32..48].iter().map(|b| format!("{b:02x}")).collect();
            let (receiver, to) = scene.listen(&["--into", &herd]);
            let args = ["--resolve", &session, "--to", &to];
            let out = scene.run(&mut scene.send(&args));
            assert_eq!((out.code, out.out.as_str()), (0, "aborted\n"), "{}", out.err);
            assert_eq!(receiver.end().says(&[]), "0");
            let recv = crate::damage::receive(scene, "file", &bytes).says(&["resolved as aborted"]);
            format!("send 77 recv {recv}")
        },
    );
}

fn pour(socket: &UnixStream, bytes: &[u8]) {
    crate::scene::pour(socket, bytes);
}

fn or_else(out: &Out, code: i32) -> String {
    if out.code == code { String::new() } else { format!("; receiver {}", out.whole()) }
}

fn resolve(scene: &mut Scene, to: &str) -> Out {
    scene.run(&mut scene.send(&["--resolve", "00112233445566778899aabbccddeeff", "--to", to]))
}

/// Does the freezer of a control group hold it?
fn is_frozen(pid: i32) -> bool {
    fs::read_dir("/run/pageherd")
        .into_iter()
        .flatten()
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with(&format!("{pid}-")))
}

/// What a sender leaves when it keeps its source: told away, as its message says how.
fn release(pid: i32) {
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGCONT);
    for file in fs::read_dir("/run/pageherd").into_iter().flatten().flatten() {
        if file.file_name().to_string_lossy().starts_with(&format!("{pid}-")) {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Senders that say what a sender does not.
fn senders(rows: &mut Rows) {
    rows.add("sender", "unix", "never commits", "69; nothing kept", |scene| {
        let herd = scene.herd("h");
        let (receiver, to) = scene.listen(&["--into", &herd]);
        let socket = two_way(scene, &to, |frames| frames.frames.retain(|(t, _)| *t != tag::COMMIT));
        drop(socket);
        let got = receiver.end().says(&["before it gave its memory up", "gone"]);
        format!(
            "{got}; {}",
            if fs::exists(format!("{herd}/a.map")).unwrap() { "kept" } else { "nothing kept" }
        )
    });
    rows.add("sender", "unix", "commits without being asked, and hangs up", "0", |scene| {
        let herd = scene.herd("h");
        scene.keeps("h/a.map");
        let (receiver, to) = scene.listen(&["--into", &herd]);
        let mut socket = two_way(scene, &to, |_| {});
        // closed with answers unread, a socket takes what was written with it
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
        drop(socket);
        receiver.end().says(&[])
    });
    rows.add("sender", "unix", "commits before it seals", "65", |scene| {
        let herd = scene.herd("h");
        let (receiver, to) = scene.listen(&["--into", &herd]);
        let socket = two_way(scene, &to, |frames| {
            let commit = frames.frames.pop().unwrap();
            let at = frames.at(tag::SEAL);
            frames.frames.insert(at, commit);
        });
        let got = receiver.end().says(&["before it is sealed"]);
        drop(socket);
        got
    });
    rows.add(
        "replay",
        "unix",
        "a recorded stream with its commit, at a herd that has it",
        "77; old whole",
        |scene| {
            let herd = scene.herd("h");
            scene.keeps("h/a.map");
            for expected in ["0", "77"] {
                let (receiver, to) = scene.listen(&["--into", &herd]);
                let socket = two_way(scene, &to, |_| {});
                let got = receiver.end().says(&["exists already"]);
                drop(socket);
                assert_eq!(got, expected);
            }
            format!("77; {}", crate::herds::whole(scene, &herd, "a", &memory(16)))
        },
    );
}

/// Writes a whole stream that wants answers, with its commit, without hearing any.
fn two_way(scene: &mut Scene, to: &str, change: impl FnOnce(&mut Frames)) -> UnixStream {
    let (file, _) = scene.stream("x", 16, &["--filters", "zero"]);
    let mut frames = Frames::of(&fs::read(&file).unwrap());
    frames.header[12] |= 1;
    frames.header[32..48].fill(5);
    frames = Frames::of(&crate::damage::sealed(&frames));
    frames.frames.push((tag::COMMIT, Vec::new()));
    change(&mut frames);
    let mut socket = UnixStream::connect(&to[5..]).unwrap();
    let _ = socket.write_all(&frames.bytes());
    socket
}

/// More senders than streams, and some that are none.
fn several(rows: &mut Rows) {
    rows.add(
        "two senders",
        "unix",
        "at a receiver of one stream",
        "first 0, second 69, receiver 0",
        |scene| {
            let herd = scene.herd("h");
            scene.keeps("h/a.map");
            let (receiver, to) = scene.listen(&["--into", &herd]);
            let image = scene.image("img", 256);
            let (a, b) = (format!("a=image:{image}"), format!("b=image:{image}"));
            let first = scene.start(&mut scene.send(&[
                "--vm",
                &a,
                "--to",
                &to,
                "--rate",
                "1M",
                "--filters",
                "none",
            ]));
            sleep(Duration::from_millis(300));
            let second = scene.start(&mut scene.send(&["--vm", &b, "--to", &to]));
            let (first, second) = (first.end(), second.end());
            format!(
                "first {}, second {}, receiver {}",
                first.says(&[]),
                second.says(&["gone", "answer"]),
                receiver.end().says(&[])
            )
        },
    );
    rows.add(
        "two senders",
        "unix",
        "one name, at a receiver of two streams",
        "one 0, one 77, receiver 77",
        |scene| {
            let herd = scene.herd("h");
            scene.keeps("h/a.map");
            let (receiver, to) = scene.listen(&["--into", &herd, "--streams", "2"]);
            let vm = format!("a=image:{}", scene.image("img", 256));
            let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
            let (first, second) =
                (scene.start(&mut scene.send(&args)), scene.start(&mut scene.send(&args)));
            let mut codes = [first.end().says(&["already"]), second.end().says(&["already"])];
            codes.sort();
            format!(
                "one {}, one {}, receiver {}",
                codes[0],
                codes[1],
                receiver.end().says(&["already"])
            )
        },
    );
    for (point, garbage) in [
        ("hangs up at once", &b""[..]),
        ("says garbage", b"GET / HTTP/1.0\r\n\r\n"),
        ("says zeros", &[0; 500]),
    ] {
        rows.add(
            "stranger",
            "unix",
            format!("{point}, beside a good one"),
            "good 0, receiver 65",
            move |scene| {
                let herd = scene.herd("h");
                scene.keeps("h/a.map");
                let (receiver, to) = scene.listen(&["--into", &herd, "--streams", "2"]);
                let vm = format!("a=image:{}", scene.image("img", 256));
                let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
                let good = scene.start(&mut scene.send(&args));
                sleep(Duration::from_millis(200));
                let before = descriptors(&receiver);
                let mut socket = UnixStream::connect(&to[5..]).unwrap();
                socket.write_all(garbage).unwrap();
                drop(socket);
                sleep(Duration::from_millis(100));
                let after = descriptors(&receiver);
                let got = format!(
                    "good {}, receiver {}",
                    good.end().says(&[]),
                    receiver.end().says(&["no pageherd stream", "cut off"])
                );
                if after > before {
                    format!("{got}; {} descriptors more", after - before)
                } else {
                    got
                }
            },
        );
    }
    rows.add("waiting", "unix", "for a page that another stream never brings", "65", |scene| {
        let bytes = crate::damage::refers(scene);
        crate::damage::receive(scene, "unix", &bytes).says(&["never arrived"])
    });
    rows.add("waiting", "unix", "for a stream that does not come in time", "69", |scene| {
        let bytes = crate::damage::refers(scene);
        let herd = scene.herd("h");
        let args = ["--into", &herd, "--streams", "2", "--wait", "1"];
        let (receiver, to) = scene.listen(&args);
        let mut socket = UnixStream::connect(&to[5..]).unwrap();
        socket.write_all(&bytes).unwrap();
        let _ = socket.shutdown(std::net::Shutdown::Write);
        sleep(Duration::from_millis(1300));
        drop(UnixStream::connect(&to[5..]).unwrap());
        let out = receiver.end();
        let both = ["did not arrive within 1 s", "cut off"].iter().all(|w| out.err.contains(w));
        if both { out.code.to_string() } else { out.whole() }
    });
}

fn descriptors(receiver: &Proc) -> usize {
    fs::read_dir(format!("/proc/{}/fd", receiver.pid())).map_or(0, Iterator::count)
}
