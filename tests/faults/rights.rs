//! What a receiver has given up while it waits, and what it may still do as another user.

use crate::keys::port_of;
use crate::matrix::Rows;
use crate::scene::{Proc, program};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

pub(crate) fn add(rows: &mut Rows) {
    let all = "seccomp 2, no new privileges 1, capabilities 0000000000000000";
    for (mode, from) in
        [("unix", ""), ("tcp", "tcp:127.0.0.1:0"), ("exec", "exec:exec cat"), ("fifo", "fifo")]
    {
        for user in [None, Some("nobody")] {
            let point = user.map_or("as root", |_| "--user nobody");
            let who = if user.is_some() { "65534" } else { "0" };
            rows.add("sandbox", mode, point, format!("{all}, user {who}"), move |scene| {
                let herd = scene.herd("h");
                fs::create_dir(&herd).unwrap();
                if user.is_some() {
                    scene.for_all();
                    chown(&herd, Some(65534), Some(65534)).unwrap();
                }
                let mut args = vec!["--into", &herd];
                args.extend(user.iter().flat_map(|user| ["--user", user]));
                let fifo = scene.keeps("fifo");
                nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
                let from = if from == "fifo" { format!("file:{fifo}") } else { from.to_owned() };
                let mut writer = None;
                let receiver = if from.is_empty() {
                    scene.listen(&args).0
                } else {
                    args.extend(["--from", &from]);
                    let receiver = scene.start(&mut scene.recv(&args));
                    if from.starts_with("file") {
                        writer = Some(fs::OpenOptions::new().write(true).open(&fifo).unwrap());
                    }
                    if from.starts_with("tcp") {
                        port_of(receiver.pid());
                    }
                    receiver
                };
                let got = rights(&receiver);
                drop(writer);
                got
            });
        }
    }
    rows.add("sandbox", "unix", "--no-sandbox", "seccomp 0, no new privileges 0", |scene| {
        let (receiver, _) = scene.listen(&["--discard", "--no-sandbox"]);
        std::thread::sleep(Duration::from_millis(200));
        format!(
            "seccomp {}, no new privileges {}",
            receiver.status("Seccomp"),
            receiver.status("NoNewPrivs")
        )
    });
    rows.add(
        "sandbox",
        "unix",
        "a whole transfer as nobody, and its socket is gone",
        "send 0 recv 0",
        |scene| {
            let herd = scene.herd("h");
            fs::create_dir(&herd).unwrap();
            scene.for_all();
            chown(&herd, Some(65534), Some(65534)).unwrap();
            scene.keeps("h/a.map");
            let (receiver, to) = scene.listen(&["--into", &herd, "--user", "nobody"]);
            let vm = format!("a=image:{}", scene.image("img", 64));
            let send = scene.run(&mut scene.send(&["--vm", &vm, "--to", &to]));
            format!("send {} recv {}", send.says(&[]), receiver.end().says(&[]))
        },
    );
    rows.add("rights", "herd", "--user nobody, a herd that it may not write", "77", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        let (herd, from) = (scene.herd("h"), format!("file:{file}"));
        let args = ["--into", &herd, "--from", &from, "--user", "nobody"];
        scene.run(&mut scene.recv(&args)).says(&["Permission denied"])
    });
    rows.add("rights", "image", "--user nobody, a folder that it may not write", "77", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        let (image, from) = (format!("a={}", scene.path("i")), format!("file:{file}"));
        let args = ["--image", &image, "--from", &from, "--user", "nobody"];
        scene.run(&mut scene.recv(&args)).says(&["Permission denied"])
    });
    for (mode, code) in [("herd", "77"), ("image", "77"), ("file", "77"), ("unix", "77")] {
        rows.add("rights", mode, "nobody, a folder of root", code, move |scene| {
            scene.stream("x", 16, &[]);
            for file in ["x", "x.image"] {
                fs::set_permissions(scene.path(file), fs::Permissions::from_mode(0o644)).unwrap();
            }
            scene.for_all();
            let mut command = scene.command("setpriv");
            command.args(NOBODY).env_remove("XDG_RUNTIME_DIR");
            let recv = |rest: [&str; 4]| {
                [vec![program("mig-recv"), "--quiet".into()], rest.map(str::to_owned).to_vec()]
                    .concat()
            };
            command.args(match mode {
                "herd" => recv(["--into", "h", "--from", "file:x"]),
                "image" => recv(["--image", "a=i", "--from", "file:x"]),
                "unix" => recv(["--discard", "--stall=9", "--from", "unix:s"]),
                _ => [
                    program("mig-send"),
                    "--quiet".into(),
                    "--vm=a=image:x.image".into(),
                    "--to=file:y".into(),
                ]
                .to_vec(),
            });
            scene.run(&mut command).says(&["Permission denied"])
        });
    }
    rows.add("rights", "herd", "nobody, its own folder", "0", |scene| {
        let (file, _) = scene.stream("x", 16, &[]);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let herd = scene.herd("h");
        scene.keeps("h/a.map");
        fs::create_dir(&herd).unwrap();
        scene.for_all();
        chown(&herd, Some(65534), Some(65534)).unwrap();
        let mut command = scene.command("setpriv");
        command
            .args(NOBODY)
            .arg(program("mig-recv"))
            .args(["--quiet", "--into", &herd, "--from", "file:x"]);
        scene.run(&mut command).says(&[])
    });
}

/// What a receiver has left, once it waits.
fn rights(receiver: &Proc) -> String {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let status = |field: &str| receiver.status(field);
        let got = format!(
            "seccomp {}, no new privileges {}, capabilities {}, user {}",
            status("Seccomp"),
            status("NoNewPrivs"),
            status("CapEff"),
            status("Uid").split_whitespace().next().unwrap_or("gone")
        );
        if got.starts_with("seccomp 2") || Instant::now() > end {
            return got;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
