//! Either end is killed or interrupted, at various moments, in various modes.

use crate::matrix::Rows;
use crate::scene::{Proc, Scene, memory};
use nix::sys::signal::Signal;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Moments in a transfer of 2 s, in milliseconds.
const MOMENTS: [u64; 6] = [1, 20, 100, 300, 800, 1500];

const SIGNALS: [Signal; 3] = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT];

pub(crate) fn add(rows: &mut Rows) {
    for signal in SIGNALS {
        for moment in MOMENTS {
            let point = format!("{signal} after {moment} ms");
            for mode in ["unix", "exec", "unix, --move"] {
                rows.add(
                    "sender killed",
                    mode,
                    &point,
                    "it ends, the source runs, nothing kept",
                    move |scene| sender(scene, mode, signal, moment),
                );
                rows.add(
                    "receiver killed",
                    mode,
                    &point,
                    "69, the source runs, nothing kept",
                    move |scene| receiver(scene, mode, signal, moment),
                );
            }
            rows.add("sender killed", "file", &point, "it ends, nothing is there", move |scene| {
                let holder = scene.holder(&["anon:512"]);
                let (vm, to) = (holder.target("a", 0), format!("file:{}", scene.path("x")));
                let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
                let sender = scene.start(&mut scene.send(&args));
                sleep(Duration::from_millis(moment));
                sender.signal(signal);
                let out = sender.end();
                if out.code == -(signal as i32) {
                    "it ends, nothing is there".into()
                } else {
                    out.whole()
                }
            });
            rows.add(
                "receiver killed",
                "image",
                &point,
                "it ends, nothing is there",
                move |scene| {
                    let image = format!("a={}", scene.path("i"));
                    let (receiver, to) = scene.listen(&["--image", &image]);
                    let vm = format!("a=image:{}", scene.image("img", 512));
                    let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--filters", "none"];
                    let sender = scene.start(&mut scene.send(&args));
                    sleep(Duration::from_millis(moment));
                    receiver.signal(signal);
                    let out = receiver.end();
                    drop(sender);
                    if out.code == -(signal as i32) {
                        "it ends, nothing is there".into()
                    } else {
                        out.whole()
                    }
                },
            );
        }
        rows.add(
            "receiver killed",
            "unix",
            format!("{signal} while it waits"),
            "it ends",
            move |scene| {
                let herd = scene.herd("h");
                let (receiver, _) = scene.listen(&["--into", &herd]);
                sleep(Duration::from_millis(50));
                receiver.signal(signal);
                let out = receiver.end();
                if out.code == -(signal as i32) { "it ends".into() } else { out.whole() }
            },
        );
    }
}

fn slow(scene: &mut Scene, mode: &str, vm: &str) -> (Proc, Option<Proc>) {
    let herd = scene.herd("h");
    let (receiver, to) = match mode {
        "exec" => {
            let line = format!(
                "exec:exec {} --quiet --into '{herd}' 2>recv.err",
                crate::scene::program("mig-recv")
            );
            scene.keeps("recv.err");
            (None, line)
        }
        _ => {
            let (receiver, to) = scene.listen(&["--into", &herd]);
            (Some(receiver), to)
        }
    };
    let mut args = vec!["--vm", vm, "--to", &to, "--rate", "1M", "--filters", "none"];
    if mode.ends_with("move") {
        args.push("--move");
    }
    (scene.start(&mut scene.send(&args)), receiver)
}

fn sender(scene: &mut Scene, mode: &str, signal: Signal, moment: u64) -> String {
    let holder = scene.holder(&["anon:512"]);
    let (sender, receiver) = slow(scene, mode, &holder.target("a", 0));
    sleep(Duration::from_millis(moment));
    sender.signal(signal);
    let out = sender.end();
    if out.code != -(signal as i32) {
        return out.whole();
    }
    if let Some(mut receiver) = receiver {
        // at the first moments there is no connection yet
        sleep(Duration::from_millis(100));
        if receiver.lives() && moment > 20 {
            let out = receiver.end().says(&["cut off", "gone"]);
            if !matches!(out.as_str(), "65" | "69") {
                return format!("the receiver: {out}");
            }
        }
    }
    kept(scene, "it ends, the source runs")
}

fn receiver(scene: &mut Scene, mode: &str, signal: Signal, moment: u64) -> String {
    let holder = scene.holder(&["anon:512"]);
    let (sender, receiver) = slow(scene, mode, &holder.target("a", 0));
    sleep(Duration::from_millis(moment));
    match receiver {
        Some(receiver) => {
            receiver.signal(signal);
            drop(receiver.end());
        }
        None => {
            let Some(pid) = child_of(sender.pid()) else {
                drop(sender);
                sleep(Duration::from_millis(1200));
                return kept(scene, "69, the source runs");
            };
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }
    let out = sender.end();
    let code = out.says(&["gone", "answer", "exec:", "connect"]);
    // before the connection came about, its socket may be gone or nobody may listen
    let code = if moment <= 20 && matches!(out.code, 66 | 69) { "69".to_owned() } else { code };
    kept(scene, &format!("{code}, the source runs"))
}

/// The command that a sender has started.
fn child_of(pid: i32) -> Option<i32> {
    for _ in 0..50 {
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // not the guard of its source, which is its child for a moment
        let is_command = |pid: &&str| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            matches!(comm.trim(), "sh" | "mig-recv")
        };
        if let Some(child) = children.split_whitespace().find(is_command) {
            return child.parse().ok();
        }
        sleep(Duration::from_millis(10));
    }
    None
}

/// What the herd has: nothing of it once the next receiver has looked at it.
fn kept(scene: &mut Scene, so_far: &str) -> String {
    let herd = scene.path("h");
    sleep(Duration::from_millis(50));
    if !fs::exists(&herd).unwrap() {
        return format!("{so_far}, nothing kept");
    }
    let image = scene.image("next.image", 8);
    let (vm, file) = (format!("next=image:{image}"), scene.keeps("next.stream"));
    let to = format!("file:{file}");
    scene.run(&mut scene.send(&["--vm", &vm, "--to", &to]));
    scene.keeps("h/next.map");
    let mut next = String::new();
    for _ in 0..40 {
        let out = scene.run(&mut scene.recv(&["--into", &herd, "--from", &to]));
        next = out.says(&["another mig-recv"]);
        if next != "77" {
            break; // the one before is dying just now
        }
        sleep(Duration::from_millis(50));
    }
    if next != "0" {
        return format!("{so_far}, the next receiver {next}");
    }
    let good = crate::herds::whole(scene, &herd, "next", &memory(8));
    match fs::exists(format!("{herd}/a.map")).unwrap() {
        true => format!("{so_far}, kept"),
        false if good == "old whole" => format!("{so_far}, nothing kept"),
        false => format!("{so_far}, {good}"),
    }
}
