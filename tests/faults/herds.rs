//! Herds that are damaged, foreign or not there, read by a sender and opened by a receiver.

use crate::frames::crc32;
use crate::matrix::Rows;
use crate::scene::{Out, Scene, memory};
use pageherd::base::Place;
use pageherd::placement::map::{self, MapFile, MapHeader, MapRun, MapVm};
use std::fs;
use std::os::unix::fs::symlink;

/// A herd `h` with VM `a` of 24 pages, of which 21 are in the pool.
fn herd(scene: &mut Scene) -> String {
    let (file, _) = scene.stream("x", 24, &[]);
    let path = scene.herd("h");
    scene.keeps("h/a.map");
    let from = format!("file:{file}");
    let out = scene.run(&mut scene.recv(&["--into", &path, "--from", &from]));
    assert_eq!(out.code, 0, "{}", out.err);
    path
}

fn send(scene: &mut Scene, vm: &str) -> Out {
    let vm = format!("z=herd:{vm}");
    let to = format!("file:{}", scene.path("out"));
    scene.run(&mut scene.send(&["--vm", &vm, "--to", &to]))
}

/// A second stream into the herd, as VM `b`.
fn add_b(scene: &mut Scene, herd: &str) -> Out {
    let image = scene.image("b.image", 8);
    let (vm, file) = (format!("b=image:{image}"), scene.keeps("b"));
    let out = scene.run(&mut scene.send(&["--vm", &vm, "--to", &format!("file:{file}")]));
    assert_eq!(out.code, 0, "{}", out.err);
    scene.run(&mut scene.recv(&["--into", herd, "--from", &format!("file:{file}")]))
}

fn write_map(header: &MapHeader, runs: &[MapRun]) -> Vec<u8> {
    let (mut bytes, mut body) = (map::write_header(header), Vec::new());
    runs.iter().for_each(|run| map::write_run(run, &mut body));
    bytes.extend(&body);
    bytes.extend(map::write_end(runs.len() as u64, crc32(&body)));
    bytes
}

fn one_block(pages: u64, place: Place) -> Vec<u8> {
    let vms = vec![MapVm { name: "a".into(), blocks: vec![("ram".into(), pages)] }];
    let file = MapFile { path: "/bin/sh".into(), device: 1, inode: 1 };
    let header = MapHeader { vms, files: vec![file] };
    write_map(&header, &[MapRun { vm: 0, block: 0, page: 0, pages, place }])
}

pub(crate) fn add(rows: &mut Rows) {
    missing(rows);
    bytes(rows);
    lies(rows);
    places(rows);
    receiver(rows);
}

fn missing(rows: &mut Rows) {
    rows.add("herd", "herd source", "not there", "66", |scene| {
        send(scene, "/nowhere/a").says(&["is no herd"])
    });
    rows.add("herd", "herd source", "a folder that is none", "66", |scene| {
        send(scene, "/bin/a").says(&["is no herd"])
    });
    rows.add("herd", "herd source", "no such VM", "66", |scene| {
        let herd = herd(scene);
        send(scene, &format!("{herd}/b")).says(&["has no VM b; it has a"])
    });
    rows.add("herd", "herd source", "no VM at all", "66", |scene| {
        let herd = herd(scene);
        fs::remove_file(format!("{herd}/a.map")).unwrap();
        fs::write(format!("{herd}/pool"), "").unwrap();
        send(scene, &herd).says(&["has no VM"])
    });
    rows.add("herd", "herd source", "no pool", "66", |scene| {
        let herd = herd(scene);
        fs::remove_file(format!("{herd}/pool")).unwrap();
        send(scene, &format!("{herd}/a")).says(&["is no herd"])
    });
}

/// The map with a bit flipped, cut off, or something behind its end.
fn bytes(rows: &mut Rows) {
    for eighth in 0..40 {
        rows.add(
            "herd",
            "herd source",
            format!("bits {eighth}/40 of its map"),
            "65",
            move |scene| {
                let herd = herd(scene);
                let path = format!("{herd}/a.map");
                let good = fs::read(&path).unwrap();
                let at = good.len() * eighth / 40;
                let mut got = Vec::new();
                for bit in [0, 7] {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    fs::write(&path, bad).unwrap();
                    let out = send(scene, &format!("{herd}/a"));
                    got.push(out.says(&["is damaged", "version", "features"]));
                }
                fs::write(&path, good).unwrap();
                got.dedup();
                got.join(" ")
            },
        );
    }
    for (point, change) in [
        ("its map is empty", (|b: &mut Vec<u8>| b.clear()) as fn(&mut Vec<u8>)),
        ("its map is cut off", |b| b.truncate(b.len() - 1)),
        ("its map is half", |b| b.truncate(b.len() / 2)),
        ("something follows its map", |b| b.push(0)),
        ("its map is another file", |b| *b = b"hello\n".to_vec()),
        ("its map twice", |b| b.extend(b.clone())),
    ] {
        for (mode, name) in [("herd source", "a"), ("herd", "into")] {
            rows.add("herd", mode, point, "65", move |scene| {
                let herd = herd(scene);
                let path = format!("{herd}/a.map");
                let good = fs::read(&path).unwrap();
                let mut bad = good.clone();
                change(&mut bad);
                fs::write(&path, bad).unwrap();
                let out = match name {
                    "a" => send(scene, &format!("{herd}/a")),
                    _ => add_b(scene, &herd),
                };
                fs::write(&path, good).unwrap();
                out.says(&["a.map is damaged", "a.map"])
            });
        }
    }
}

/// Maps with checksums that fit and content that does not.
fn lies(rows: &mut Rows) {
    let far = (1 << 40) - 1;
    for (point, bytes) in [
        ("beyond the pool by one page", one_block(22, Place::Pool { page: 0 })),
        ("far beyond the pool", one_block(1, Place::Pool { page: far })),
        ("beyond what can be numbered", one_block(1, Place::Pool { page: u64::MAX - 1 })),
        ("pages without end", one_block(u64::MAX, Place::Zero)),
        ("more pages than there can be", one_block(1 << 41, Place::Zero)),
        ("content that is not here", one_block(1, Place::Bytes)),
        ("content of a file of this host", one_block(1, Place::Local { file: 0, page: 0 })),
        ("two VMs", {
            let vm = |name: &str| MapVm { name: name.into(), blocks: vec![("ram".into(), 1)] };
            let header = MapHeader { vms: vec![vm("a"), vm("b")], files: Vec::new() };
            let run = |vm| MapRun { vm, block: 0, page: 0, pages: 1, place: Place::Zero };
            write_map(&header, &[run(0), run(1)])
        }),
        ("a page twice", {
            let vms = vec![MapVm { name: "a".into(), blocks: vec![("ram".into(), 2)] }];
            let run = MapRun { vm: 0, block: 0, page: 0, pages: 2, place: Place::Zero };
            write_map(&MapHeader { vms, files: Vec::new() }, &[run, run])
        }),
        ("no page", write_map(&MapHeader { vms: Vec::new(), files: Vec::new() }, &[])),
        ("another template", one_block(1, Place::Template { file: 0, page: 0 })),
        ("a template that it does not name", one_block(1, Place::Template { file: 9, page: 0 })),
    ] {
        let for_receiver = bytes.clone();
        rows.add(
            "herd",
            "herd source",
            format!("a map that tells of {point}"),
            "65",
            move |scene| {
                let herd = herd(scene);
                let path = format!("{herd}/a.map");
                let good = fs::read(&path).unwrap();
                fs::write(&path, &bytes).unwrap();
                let got = send(scene, &format!("{herd}/a")).says(&["a.map"]);
                fs::write(&path, good).unwrap();
                got
            },
        );
        // what a receiver does not read it need not judge: only where slots are does matter to it
        if !(point.contains("pool") || point.contains("numbered") || point.contains("twice")) {
            continue;
        }
        rows.add("herd", "herd", format!("a map that tells of {point}"), "65", move |scene| {
            let herd = herd(scene);
            let path = format!("{herd}/a.map");
            let good = fs::read(&path).unwrap();
            fs::write(&path, &for_receiver).unwrap();
            let got = add_b(scene, &herd).says(&["a.map is damaged"]);
            fs::write(&path, good).unwrap();
            got
        });
    }
}

fn places(rows: &mut Rows) {
    rows.add("herd", "herd source", "its pool is cut off", "65", |scene| {
        let herd = herd(scene);
        let pool = fs::read(format!("{herd}/pool")).unwrap();
        fs::write(format!("{herd}/pool"), &pool[..4096]).unwrap();
        let got = send(scene, &format!("{herd}/a")).says(&["beyond the end of the pool"]);
        fs::write(format!("{herd}/pool"), pool).unwrap();
        got
    });
    rows.add("herd", "herd", "its pool is cut off", "65", |scene| {
        let herd = herd(scene);
        let pool = fs::read(format!("{herd}/pool")).unwrap();
        fs::write(format!("{herd}/pool"), &pool[..4096]).unwrap();
        let got = add_b(scene, &herd).says(&["beyond the end of the pool"]);
        fs::write(format!("{herd}/pool"), pool).unwrap();
        got
    });
    for (point, code, word) in [
        ("is gone", "65", "cannot be opened any more"),
        ("is another file", "65", "is another file now"),
        ("is shorter", "65", "shorter"),
        ("is a folder", "65", "another file"),
    ] {
        rows.add("template", "herd source", format!("a template {point}"), code, move |scene| {
            let template = scene.image("t", 16);
            let file = scene.keeps("x");
            let image = scene.image("img", 16);
            let vm = format!("a=image:{image}");
            let to = format!("file:{file}");
            let flags = ["--vm", &vm, "--to", &to, "--template", &template];
            assert_eq!(scene.run(&mut scene.send(&flags)).says(&[]), "0");
            let path = scene.herd("h");
            scene.keeps("h/a.map");
            let recv = ["--into", &path, "--from", &to, "--template", &template];
            assert_eq!(scene.run(&mut scene.recv(&recv)).says(&[]), "0");
            match point {
                "is gone" => fs::remove_file(&template).unwrap(),
                "is another file" => {
                    fs::rename(&template, scene.keeps("old")).unwrap();
                    fs::write(&template, memory(16)).unwrap();
                }
                "is shorter" => {
                    fs::OpenOptions::new()
                        .write(true)
                        .open(&template)
                        .unwrap()
                        .set_len(4096)
                        .unwrap();
                }
                _ => {
                    fs::remove_file(&template).unwrap();
                    fs::create_dir(&template).unwrap();
                }
            }
            send(scene, &format!("{path}/a")).says(&[word])
        });
    }
    for (point, word) in
        [("one that this end was not given", "--template"), ("another of that name", "--template")]
    {
        rows.add("template", "file", point, "77", move |scene| {
            let template = scene.image("t", 16);
            let flags = ["--template", template.as_str()];
            let (file, _) = scene.stream("x", 16, &flags);
            let (herd, from) = (scene.herd("h"), format!("file:{file}"));
            let mut args = vec!["--into", &herd, "--from", &from];
            let other = scene.file("t2", &memory(17)[4096..]);
            if point.starts_with("another") {
                args.extend(["--template", other.as_str()]);
            }
            scene.run(&mut scene.recv(&args)).says(&[word])
        });
    }
}

/// What a receiver finds in the folder that it is to write to.
fn receiver(rows: &mut Rows) {
    for (point, name, content, word) in [
        ("a journal with a line that is none", "journal", &b"hello\n"[..], "line 1 of the journal"),
        ("a journal that is no text", "journal", b"\xff\xfe\n", "journal"),
        ("a journal with a false checksum", "journal", b"aborted aa crc32=00000000\n", "line 1"),
    ] {
        rows.add("herd", "herd", point, "65", move |scene| {
            let herd = herd(scene);
            let path = format!("{herd}/{name}");
            let good = fs::read(&path).unwrap();
            fs::write(&path, content).unwrap();
            let got = add_b(scene, &herd).says(&[word]);
            fs::write(&path, good).unwrap();
            got
        });
    }
    rows.add("herd", "herd", "a journal whose last line is torn", "0", |scene| {
        let herd = herd(scene);
        let path = format!("{herd}/journal");
        let mut text = fs::read(&path).unwrap();
        text.extend(b"committed 00");
        fs::write(&path, text).unwrap();
        scene.keeps("h/b.map");
        add_b(scene, &herd).says(&[])
    });
    for name in ["pool", "journal", "lock"] {
        rows.add("herd", "herd", format!("{name} is a link elsewhere"), "74", move |scene| {
            let herd = scene.herd("h");
            fs::create_dir(&herd).unwrap();
            let precious = scene.file("precious", b"precious");
            symlink(&precious, format!("{herd}/{name}")).unwrap();
            let got = add_b(scene, &herd).says(&[]);
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
            let _ = fs::remove_file(format!("{herd}/{name}"));
            got
        });
        rows.add("herd", "herd", format!("{name} is a folder"), "74", move |scene| {
            let herd = scene.herd("h");
            fs::create_dir_all(format!("{herd}/{name}")).unwrap();
            let got = add_b(scene, &herd).says(&[]);
            let _ = fs::remove_dir(format!("{herd}/{name}"));
            got
        });
    }
    for name in ["a.map", "journal"] {
        rows.add("herd", "herd", format!("{name} is a named pipe"), "74", move |scene| {
            let herd = herd(scene);
            let path = format!("{herd}/{name}");
            let good = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let got = add_b(scene, &herd).says(&[name]);
            fs::remove_file(&path).unwrap();
            fs::write(&path, good).unwrap();
            got
        });
    }
    rows.add("herd", "herd source", "a.map is a named pipe", "65", |scene| {
        let herd = herd(scene);
        let path = format!("{herd}/a.map");
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let got = send(scene, &format!("{herd}/a")).says(&["a.map"]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
        got
    });
    rows.add("herd", "herd", "another receiver writes to it", "77", |scene| {
        let herd = herd(scene);
        let (_first, _) = scene.listen(&["--into", &herd]);
        add_b(scene, &herd).says(&["another mig-recv"])
    });
    rows.add("herd", "herd", "a VM of that name is there", "77; old whole", |scene| {
        let herd = herd(scene);
        let from = format!("file:{}", scene.path("x"));
        let got = scene
            .run(&mut scene.recv(&["--into", &herd, "--from", &from]))
            .says(&["exists already"]);
        format!("{got}; {}", whole(scene, &herd, "a", &memory(24)))
    });
    rows.add("replay", "herd", "the same session after its VM was removed", "0", |scene| {
        let herd = herd(scene);
        fs::remove_file(format!("{herd}/a.map")).unwrap();
        let from = format!("file:{}", scene.path("x"));
        scene.run(&mut scene.recv(&["--into", &herd, "--from", &from])).says(&[])
    });
    rows.add(
        "herd",
        "herd",
        "garbage in the pool and a map without a session",
        "0; old whole",
        |scene| {
            let herd = herd(scene);
            let mut pool = fs::read(format!("{herd}/pool")).unwrap();
            pool.extend(memory(10));
            fs::write(format!("{herd}/pool"), pool).unwrap();
            fs::copy(format!("{herd}/a.map"), format!("{herd}/.c.map.00ff")).unwrap();
            scene.keeps("h/b.map");
            let got = add_b(scene, &herd).says(&[]);
            format!("{got}; {}", whole(scene, &herd, "a", &memory(24)))
        },
    );
}

/// Is a VM of a herd what it should be?
pub(crate) fn whole(scene: &mut Scene, herd: &str, vm: &str, content: &[u8]) -> String {
    let stream = scene.path("check.stream");
    let back = scene.path("check.image");
    let (target, to) = (format!("a=herd:{herd}/{vm}"), format!("file:{stream}"));
    let sent = scene.run(&mut scene.send(&["--vm", &target, "--to", &to]));
    let image = format!("a={back}");
    let got = scene.run(&mut scene.recv(&["--image", &image, "--from", &to]));
    let same = fs::read(&back).is_ok_and(|bytes| bytes == content);
    let _ = (fs::remove_file(&stream), fs::remove_file(&back));
    match (sent.code, got.code, same) {
        (0, 0, true) => "old whole".into(),
        _ => format!("{vm}: {} {} same: {same}", sent.whole(), got.whole()),
    }
}
