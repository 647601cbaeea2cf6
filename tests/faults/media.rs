//! Media that end, hang, or carry a byte at a time.

use crate::keys::port_of;
use crate::matrix::Rows;
use crate::scene::{Scene, memory, program};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread::{self, sleep};
use std::time::Duration;

pub(crate) fn add(rows: &mut Rows) {
    readers(rows);
    writers(rows);
    stalls(rows);
    resets(rows);
    trickle(rows);
    files(rows);
    commands(rows);
}

/// A VM of 2 MiB.
fn vm(scene: &mut Scene) -> String {
    format!("a=image:{}", scene.image("img", 512))
}

/// Readers that end before all was said.
fn readers(rows: &mut Rows) {
    for (point, taken) in [
        ("at once", 0u64),
        ("in the header", 10),
        ("in the middle", 1 << 20),
        ("near the end", 1_830_000),
    ] {
        rows.add("reader ends", "stdio", point, "69", move |scene| {
            let vm = vm(scene);
            let mut sender =
                scene.start_piped(&mut scene.send(&["--vm", &vm, "--filters", "none"]));
            let mut out = sender.child.stdout.take().unwrap();
            std::io::copy(&mut (&mut out).take(taken), &mut std::io::sink()).unwrap();
            drop(out);
            sender.end().says(&["the other end is gone"])
        });
        rows.add("reader ends", "exec", point, "69", move |scene| {
            let vm = vm(scene);
            // it says nothing, and a sender that is to be answered waits
            let to = format!("exec:head -c {taken} >/dev/null");
            let args = ["--vm", &vm, "--filters", "none", "--to", &to, "--stall", "1"];
            scene.run(&mut scene.send(&args)).says(&["gone", "makes no sense", "exec:"])
        });
        rows.add("reader ends", "unix", point, "69", move |scene| {
            let path = scene.path("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let to = format!("unix:{path}");
            let vm = vm(scene);
            let sender =
                scene.start(&mut scene.send(&["--vm", &vm, "--to", &to, "--filters", "none"]));
            let (mut socket, _) = listener.accept().unwrap();
            welcome(&mut socket, taken);
            drop(socket);
            fs::remove_file(&path).unwrap();
            sender.end().says(&["gone", "answer"])
        });
        rows.add("reader ends", "tcp", point, "69", move |scene| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = format!("tcp:{}", listener.local_addr().unwrap());
            let vm = vm(scene);
            let sender =
                scene.start(&mut scene.send(&["--vm", &vm, "--to", &to, "--filters", "none"]));
            let (mut socket, _) = listener.accept().unwrap();
            welcome(&mut socket, taken);
            drop(socket);
            sender.end().says(&["gone", "answer"])
        });
        rows.add("reader ends", "fd", point, "69", move |scene| {
            let vm = vm(scene);
            let line = format!("{{ \"$0\" \"$@\" --to fd:3 3>&1 >/dev/null; echo $? >code; }} | head -c {taken} >/dev/null");
            let mut shell = scene.command("sh");
            shell.args(["-c", &line, &program("mig-send"), "--quiet", "--vm", &vm, "--filters", "none"]);
            let mut out = scene.run(&mut shell);
            let code = fs::read_to_string(scene.keeps("code")).unwrap();
            out.code = code.trim().parse().unwrap();
            out.says(&["the other end is gone"])
        });
    }
}

/// Reads a header and what is declared, agrees, and takes so many bytes.
pub(crate) fn welcome(socket: &mut (impl Read + Write), taken: u64) {
    if taken < 64 {
        let _ = std::io::copy(&mut socket.take(taken), &mut std::io::sink());
        return;
    }
    let (header, _) = declared(socket);
    let mut answers = crate::frames::answers(header[32..48].try_into().unwrap());
    let mut bytes = answers.header().to_vec();
    bytes.extend(answers.answer(&pageherd::wire::answer::Answer::Welcome));
    socket.write_all(&bytes).unwrap();
    let _ = std::io::copy(&mut socket.take(taken), &mut std::io::sink());
}

/// Reads a stream up to its beginning; its header, and how many frames that were.
pub(crate) fn declared(socket: &mut impl Read) -> (Vec<u8>, u32) {
    let mut header = vec![0; 64];
    socket.read_exact(&mut header).unwrap();
    for number in 1.. {
        let (tag, _) = next_frame(socket).unwrap();
        if tag == pageherd::wire::record::tag::BEGIN {
            return (header, number);
        }
    }
    unreachable!()
}

/// Reads a frame: its type and its body.
pub(crate) fn next_frame(socket: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 12];
    socket.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; length + 4];
    socket.read_exact(&mut body).ok()?;
    body.truncate(length);
    Some((head[4], body))
}

/// Senders that end before all was said.
fn writers(rows: &mut Rows) {
    for part in 0..10u32 {
        for mode in ["stdio", "unix", "tcp", "exec", "fifo"] {
            rows.add("writer ends", mode, format!("after {part}/10"), "65", move |scene| {
                let (file, _) = scene.stream("x", 128, &[]);
                let all = fs::read(&file).unwrap();
                let bytes = all[..all.len() * part as usize / 10].to_vec();
                cut(scene, mode, &bytes).says(&["cut off"])
            });
        }
    }
}

/// A receiver that gets these bytes and then the end.
fn cut(scene: &mut Scene, mode: &str, bytes: &[u8]) -> crate::scene::Out {
    let herd = scene.herd("h");
    if mode != "tcp" && mode != "fifo" {
        return crate::damage::receive(scene, mode, bytes);
    }
    if mode == "fifo" {
        let fifo = scene.keeps("fifo");
        nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let from = format!("file:{fifo}");
        let receiver = scene.start(&mut scene.recv(&["--into", &herd, "--from", &from]));
        crate::scene::pour(fs::OpenOptions::new().write(true).open(&fifo).unwrap(), bytes);
        return receiver.end();
    }
    let receiver = scene.start(&mut scene.recv(&["--into", &herd, "--from", "tcp:127.0.0.1:0"]));
    let mut socket = TcpStream::connect(("127.0.0.1", port_of(receiver.pid()))).unwrap();
    let _ = socket.write_all(bytes);
    drop(socket);
    receiver.end()
}

/// Peers that say nothing for longer than --stall.
fn stalls(rows: &mut Rows) {
    for (mode, from) in [("stdio", ""), ("unix", "unix"), ("tcp", "tcp"), ("exec", "exec")] {
        for (point, part) in [("says nothing", 0), ("stops in the middle", 1)] {
            let code = "69";
            rows.add("sender stalls", mode, point, code, move |scene| {
                let (file, _) = scene.stream("x", 64, &[]);
                let bytes = fs::read(&file).unwrap();
                let bytes = &bytes[..bytes.len() / 2 * part];
                let herd = scene.herd("h");
                let mut args = vec!["--into", &herd, "--stall", "1"];
                match from {
                    "unix" => {
                        let (receiver, to) = scene.listen(&args);
                        let mut socket = UnixStream::connect(&to[5..]).unwrap();
                        socket.write_all(bytes).unwrap();
                        let out = receiver.end();
                        drop(socket);
                        out
                    }
                    "tcp" => {
                        args.extend(["--from", "tcp:127.0.0.1:0"]);
                        let receiver = scene.start(&mut scene.recv(&args));
                        let mut socket =
                            TcpStream::connect(("127.0.0.1", port_of(receiver.pid()))).unwrap();
                        socket.write_all(bytes).unwrap();
                        receiver.end()
                    }
                    "exec" => {
                        let half = scene.file("half", bytes);
                        let from = format!("exec:cat '{half}'; sleep 5");
                        args.extend(["--from", &from]);
                        scene.run(&mut scene.recv(&args))
                    }
                    _ => {
                        let mut command = scene.recv(&args);
                        let mut receiver = scene.start(command.stdin(Stdio::piped()));
                        let mut stdin = receiver.child.stdin.take().unwrap();
                        stdin.write_all(bytes).unwrap();
                        let out = receiver.end();
                        drop(stdin);
                        out
                    }
                }
                .says(&["nothing moved for 1 s"])
            });
        }
    }
    for mode in ["unix", "exec", "stdio"] {
        rows.add("receiver stalls", mode, "reads nothing", "69", move |scene| {
            let vm = vm(scene);
            let mut args = vec!["--vm", &vm, "--stall", "1", "--filters", "none"];
            match mode {
                "unix" => {
                    let path = scene.keeps("socket");
                    let _listener = UnixListener::bind(&path).unwrap();
                    let to = format!("unix:{path}");
                    args.extend(["--to", &to]);
                    scene.run(&mut scene.send(&args))
                }
                "exec" => {
                    args.extend(["--to", "exec:exec sleep 30"]);
                    scene.run(&mut scene.send(&args))
                }
                _ => {
                    let mut sender = scene.start_piped(&mut scene.send(&args));
                    let stdout = sender.child.stdout.take();
                    let out = sender.end();
                    drop(stdout);
                    out
                }
            }
            .says(&["nothing moved for 1 s"])
        });
    }
    for moment in [100, 600] {
        rows.add(
            "receiver is stopped",
            "unix",
            format!("after {moment} ms"),
            "send 69 recv 69",
            move |scene| {
                let vm = vm(scene);
                let herd = scene.herd("h");
                let (receiver, to) = scene.listen(&["--into", &herd]);
                let args =
                    ["--vm", &vm, "--to", &to, "--stall", "1", "--rate", "1M", "--filters", "none"];
                let sender = scene.start(&mut scene.send(&args));
                sleep(Duration::from_millis(moment));
                receiver.signal(Signal::SIGSTOP);
                let send = sender.end();
                receiver.signal(Signal::SIGCONT);
                let recv = receiver.end();
                let recv = match recv.says(&["cut off"]).as_str() {
                    "65" => "69".to_owned(), // the sender hung up: an end in the middle of a frame
                    other => other.to_owned(),
                };
                format!("send {} recv {recv}", send.says(&["nothing moved"]))
            },
        );
        rows.add(
            "sender is stopped",
            "unix",
            format!("after {moment} ms"),
            "recv 69 send 69",
            move |scene| {
                let vm = vm(scene);
                let herd = scene.herd("h");
                let (receiver, to) = scene.listen(&["--into", &herd, "--stall", "1"]);
                let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
                let sender = scene.start(&mut scene.send(&args));
                sleep(Duration::from_millis(moment));
                sender.signal(Signal::SIGSTOP);
                let recv = receiver.end();
                sender.signal(Signal::SIGCONT);
                format!(
                    "recv {} send {}",
                    recv.says(&["nothing moved"]),
                    sender.end().says(&[]).replace("74", "69")
                )
            },
        );
    }
}

/// Connections that are reset, or closed in one direction.
fn resets(rows: &mut Rows) {
    for (point, part) in [("at once", 0), ("in the middle", 1)] {
        rows.add("reset", "tcp", format!("by the sender, {point}"), "69 or 65", move |scene| {
            let (file, _) = scene.stream("x", 64, &[]);
            let bytes = fs::read(&file).unwrap();
            let bytes = &bytes[..bytes.len() / 2 * part];
            let herd = scene.herd("h");
            let args = ["--into", &herd, "--from", "tcp:127.0.0.1:0"];
            let receiver = scene.start(&mut scene.recv(&args));
            let mut socket = TcpStream::connect(("127.0.0.1", port_of(receiver.pid()))).unwrap();
            socket.write_all(bytes).unwrap();
            reset(socket);
            match receiver.end().says(&["gone", "cut off"]).as_str() {
                "69" | "65" => "69 or 65".to_owned(),
                other => other.to_owned(),
            }
        });
        rows.add("reset", "tcp", format!("by the receiver, {point}"), "69", move |scene| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = format!("tcp:{}", listener.local_addr().unwrap());
            let vm = vm(scene);
            let sender =
                scene.start(&mut scene.send(&["--vm", &vm, "--to", &to, "--filters", "none"]));
            let (mut socket, _) = listener.accept().unwrap();
            welcome(&mut socket, (part as u64) << 20);
            reset(socket);
            sender.end().says(&["gone", "cannot connect"])
        });
    }
    for (mode, point) in [("unix", "after its header"), ("tcp", "after its header")] {
        rows.add("half closed", mode, format!("by the receiver, {point}"), "69", move |scene| {
            let vm = vm(scene);
            let args = |to: &str| ["--vm", &vm, "--to", to, "--filters", "none"].map(str::to_owned);
            let start = |scene: &mut Scene, to: &str| {
                let args = args(to);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                scene.start(&mut scene.send(&args))
            };
            if mode == "unix" {
                let path = scene.keeps("socket");
                let listener = UnixListener::bind(&path).unwrap();
                let sender = start(scene, &format!("unix:{path}"));
                let (mut socket, _) = listener.accept().unwrap();
                declared(&mut socket);
                socket.shutdown(Shutdown::Write).unwrap();
                sender.end().says(&["answer"])
            } else {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let sender = start(scene, &format!("tcp:{}", listener.local_addr().unwrap()));
                let (mut socket, _) = listener.accept().unwrap();
                declared(&mut socket);
                socket.shutdown(Shutdown::Write).unwrap();
                sender.end().says(&["answer"])
            }
        });
    }
}

fn reset(socket: TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt::Linger};
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&socket.as_fd(), Linger, &linger).unwrap();
    drop(socket);
}

/// What is slow and moves is no fault.
fn trickle(rows: &mut Rows) {
    rows.add("slow sender", "unix", "100 bytes each 1/100 s", "0", |scene| {
        let (file, _) = scene.stream("x", 4, &[]);
        let bytes = fs::read(&file).unwrap();
        let herd = scene.herd("h");
        scene.keeps("h/a.map");
        let (receiver, to) = scene.listen(&["--into", &herd, "--stall", "1"]);
        let mut socket = UnixStream::connect(&to[5..]).unwrap();
        for piece in bytes.chunks(100) {
            socket.write_all(piece).unwrap();
            sleep(Duration::from_millis(10));
        }
        drop(socket);
        receiver.end().says(&[])
    });
    rows.add(
        "slow sender",
        "tcp",
        "a byte each 1/2 s, for as long as one looks",
        "lives",
        |scene| {
            let (file, _) = scene.stream("x", 4, &[]);
            let bytes = fs::read(&file).unwrap();
            let args = ["--discard", "--from", "tcp:127.0.0.1:0", "--stall", "1"];
            let mut receiver = scene.start(&mut scene.recv(&args));
            let mut socket = TcpStream::connect(("127.0.0.1", port_of(receiver.pid()))).unwrap();
            for byte in &bytes[..8] {
                socket.write_all(&[*byte]).unwrap();
                sleep(Duration::from_millis(500));
            }
            let lives = receiver.lives();
            drop(socket);
            let end = receiver.end().says(&["cut off"]);
            if lives && end == "65" { "lives".to_owned() } else { end }
        },
    );
    for mode in ["stdio", "unix"] {
        rows.add("short writes", mode, "a byte at a time", "0; same bytes", move |scene| {
            let (file, content) = scene.stream("x", 8, &[]);
            let bytes = fs::read(&file).unwrap();
            let back = scene.keeps("back");
            let image = format!("a={back}");
            let out = if mode == "unix" {
                let (receiver, to) = scene.listen(&["--image", &image]);
                let mut socket = UnixStream::connect(&to[5..]).unwrap();
                bytes.iter().for_each(|byte| socket.write_all(&[*byte]).unwrap());
                drop(socket);
                receiver.end()
            } else {
                let mut command = scene.recv(&["--image", &image]);
                let mut receiver = scene.start(command.stdin(Stdio::piped()));
                let mut stdin = receiver.child.stdin.take().unwrap();
                bytes.iter().for_each(|byte| stdin.write_all(&[*byte]).unwrap());
                drop(stdin);
                receiver.end()
            };
            let same = fs::read(&back).is_ok_and(|back| back == content);
            format!("{}; {}", out.says(&[]), if same { "same bytes" } else { "other bytes" })
        });
    }
    rows.add(
        "short reads",
        "stdio",
        "7 bytes at a time through a pipe of a page",
        "0; same bytes",
        |scene| {
            let vm = format!("a=image:{}", scene.image("img", 16));
            let mut sender = scene.start_piped(&mut scene.send(&["--vm", &vm]));
            let mut out = sender.child.stdout.take().unwrap();
            let file = scene.keeps("x");
            let reader = thread::spawn(move || {
                let (mut all, mut piece) = (Vec::new(), [0; 7]);
                while let Ok(n @ 1..) = out.read(&mut piece) {
                    all.extend(&piece[..n]);
                }
                fs::write(file, all).unwrap();
            });
            let sent = sender.end().says(&[]);
            reader.join().unwrap();
            let back = scene.keeps("back");
            let (image, from) = (format!("a={back}"), format!("file:{}", scene.path("x")));
            assert_eq!(
                scene.run(&mut scene.recv(&["--image", &image, "--from", &from])).says(&[]),
                "0"
            );
            let same = fs::read(&back).unwrap() == memory(16);
            format!("{sent}; {}", if same { "same bytes" } else { "other bytes" })
        },
    );
}

/// Files that take no more, or must not be written.
fn files(rows: &mut Rows) {
    rows.add("full", "file", "/dev/full", "74", |scene| {
        let vm = vm(scene);
        scene
            .run(&mut scene.send(&["--vm", &vm, "--to", "file:/dev/full"]))
            .says(&["No space left"])
    });
    rows.add("full", "stdio", "/dev/full", "74", |scene| {
        let vm = vm(scene);
        let mut shell = scene.command("sh");
        let line = "exec \"$0\" \"$@\" >/dev/full";
        shell.args(["-c", line, &program("mig-send"), "--quiet", "--vm", &vm]);
        scene.run(&mut shell).says(&["No space left"])
    });
    rows.add("full", "json", "the report to /dev/full", "74; VM there", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        let herd = scene.herd("h");
        scene.keeps("h/a.map");
        let line = format!("exec \"$0\" --into '{herd}' --from 'file:{file}' --json >/dev/full");
        let mut shell = scene.command("sh");
        shell.args(["-c", &line, &program("mig-recv")]);
        let got = scene.run(&mut shell).says(&["standard output"]);
        let there = fs::exists(format!("{herd}/a.map")).unwrap();
        format!("{got}; {}", if there { "VM there" } else { "no VM" })
    });
    rows.add("image exists", "image", "without --force", "77; old whole", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        let old = scene.file("old", b"precious");
        let (image, from) = (format!("a={old}"), format!("file:{file}"));
        let got = scene
            .run(&mut scene.recv(&["--image", &image, "--from", &from]))
            .says(&["exists already"]);
        let whole = fs::read(&old).unwrap() == b"precious";
        format!("{got}; {}", if whole { "old whole" } else { "old gone" })
    });
    rows.add(
        "image exists",
        "image",
        "with --force and a damaged stream",
        "65; old whole",
        |scene| {
            let (file, _) = scene.stream("x", 16, &[]);
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
            let old = scene.file("old", b"precious");
            let (image, from) = (format!("a={old}"), format!("file:{file}"));
            let args = ["--image", &image, "--from", &from, "--force"];
            let got = scene.run(&mut scene.recv(&args)).says(&["cut off"]);
            let whole = fs::read(&old).unwrap() == b"precious";
            format!("{got}; {}", if whole { "old whole" } else { "old gone" })
        },
    );
    rows.add("image", "image", "a VM that was not named", "64", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        let (image, from) = (format!("other={}", scene.path("o")), format!("file:{file}"));
        scene.run(&mut scene.recv(&["--image", &image, "--from", &from])).says(&["--image a=FILE"])
    });
    rows.add("image", "image", "an image that is a folder", "74", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        fs::create_dir(scene.keeps("dir")).unwrap();
        let (image, from) = (format!("a={}", scene.path("dir")), format!("file:{file}"));
        scene.run(&mut scene.recv(&["--image", &image, "--from", &from, "--force"])).says(&[])
    });
    rows.add(
        "file exists",
        "file",
        "a sender that fails leaves the old",
        "66; old whole",
        |scene| {
            let old = scene.file("x", b"precious");
            let mut holder = scene.holder(&["anon:512"]);
            let (vm, to) = (holder.target("a", 0), format!("file:{old}"));
            let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
            let sender = scene.start(&mut scene.send(&args));
            sleep(Duration::from_millis(500));
            holder.kill();
            let got = sender.end().says(&["has ended"]);
            let whole = fs::read(&old).unwrap() == b"precious";
            format!("{got}; {}", if whole { "old whole" } else { "old gone" })
        },
    );
}

/// Commands that fail at the other end.
fn commands(rows: &mut Rows) {
    for (point, command, expected) in [
        ("fails at once", "exit 3", "69"),
        ("fails when it has read all", "cat >/dev/null; exit 3", "69"),
        ("ends well without a word", "cat >/dev/null", "69"),
        ("ends well at once", "true", "69"),
        ("is killed", "kill -9 $$", "69"),
        ("answers garbage", "head -c 100 >/dev/null; yes", "65"),
        ("echoes the stream", "cat", "65"),
        ("does not exist", "/nonexistent/x 2>/dev/null", "69"),
    ] {
        rows.add("command", "exec", point, expected, move |scene| {
            let vm = vm(scene);
            let to = format!("exec:{command}");
            let args = ["--vm", &vm, "--to", &to, "--filters", "none", "--stall", "1"];
            scene.run(&mut scene.send(&args)).says(&[])
        });
    }
    rows.add("command", "exec", "the receiver's refusal is told", "77", |scene| {
        let vm = vm(scene);
        let to = format!("exec:{} --quiet --discard --max-ram 4K 2>/dev/null", program("mig-recv"));
        scene.run(&mut scene.send(&["--vm", &vm, "--to", &to])).says(&["refuses", "--max-ram"])
    });
    for (point, command, expected) in [
        ("fails at once", "exit 3", "69"),
        ("says nothing", "true", "65"),
        ("fails after a whole stream", "cat x; exit 3", "0"),
        ("is killed in the middle", "head -c 9000 x; kill -9 $$", "69"),
    ] {
        rows.add("command", "exec to mig-recv", point, expected, move |scene| {
            scene.stream("x", 16, &[]);
            let from = format!("exec:{command}");
            scene.run(&mut scene.recv(&["--discard", "--from", &from])).says(&[])
        });
    }
    for (point, filter) in [
        ("fails at once", "exit 3"),
        ("answers garbage", "yes"),
        ("does not exist", "/nonexistent/x 2>/dev/null"),
    ] {
        rows.add("external filter", "file", point, "74", move |scene| {
            let vm = vm(scene);
            let (filters, to) = (format!("exec:{filter}"), format!("file:{}", scene.path("x")));
            scene.run(&mut scene.send(&["--vm", &vm, "--to", &to, "--filters", &filters])).says(&[])
        });
    }
}
