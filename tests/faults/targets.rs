//! Processes and images that are not what they should be, or do not stay it.

use crate::matrix::Rows;
use crate::scene::{Scene, lives, program};
use crate::support::wait_for;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

pub(crate) fn add(rows: &mut Rows) {
    processes(rows);
    others(rows);
    leaving(rows);
    images(rows);
}

fn send(scene: &mut Scene, target: &str) -> crate::scene::Out {
    let (vm, to) = (format!("a={target}"), format!("file:{}", scene.path("x")));
    scene.run(&mut scene.send(&["--vm", &vm, "--to", &to]))
}

fn processes(rows: &mut Rows) {
    rows.add("target", "pid", "does not exist", "66", |scene| {
        send(scene, "pid:999999999").says(&["there is no process"])
    });
    rows.add("target", "pid", "a zombie", "66", |scene| {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        wait_for("a zombie", Duration::from_secs(10), || !lives(pid));
        let got = send(scene, &format!("pid:{pid}")).says(&["is a zombie"]);
        child.wait().unwrap();
        got
    });
    rows.add("target", "pid", "a kernel thread", "66", |scene| {
        let is_kernel = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
                let flags = stat.rsplit(')').next().unwrap().split_whitespace().nth(6);
                flags.unwrap().parse::<u64>().unwrap() & 0x0020_0000 != 0
            })
        };
        let pid = (2..100).find(is_kernel).unwrap();
        send(scene, &format!("pid:{pid}")).says(&["is a kernel thread"])
    });
    rows.add("target", "pid", "a thread", "66", |scene| {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            let _ = stopped.recv();
        });
        let got = send(scene, &format!("pid:{}", told.recv().unwrap())).says(&["is a thread of"]);
        drop(stop);
        thread.join().unwrap();
        got
    });
    rows.add("target", "pid", "our own shell", "64", |scene| {
        let line = format!("\"$0\" --quiet --vm a=pid:$$ --to file:{}; exit $?", scene.path("x"));
        let mut shell = scene.command("sh");
        shell.args(["-c", &line, &program("mig-send")]);
        scene.run(&mut shell).says(&["started this command"])
    });
    rows.add("target", "pid", "the command itself", "64", |scene| {
        let line = format!("exec \"$0\" --quiet --vm a=pid:$$ --to file:{}", scene.path("x"));
        let mut shell = scene.command("sh");
        shell.args(["-c", &line, &program("mig-send")]);
        scene.run(&mut shell).says(&["this command itself"])
    });
    rows.add("target", "comm", "matches nothing", "66", |scene| {
        send(scene, "comm:no-such-*").says(&["matches no process"])
    });
    rows.add("target", "cgroup", "is not there", "66", |scene| {
        send(scene, "cgroup:/no/such").says(&["no control group"])
    });
    rows.add("target", "pid", "no such mapping", "66", |scene| {
        let holder = scene.holder(&["anon:8"]);
        send(scene, &format!("pid:{},map=*no-such*", holder.pid)).says(&["no mapping"])
    });
    rows.add("target", "pid", "traced by another", "1", |scene| {
        let holder = scene.holder(&["anon:8"]);
        let mut strace = scene.command("strace");
        strace.args(["-qq", "-o", "/dev/null", "-p", &holder.pid.to_string()]);
        let strace = scene.start(&mut strace);
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{}/status", holder.pid)).unwrap();
            status.contains(&format!("TracerPid:\t{}", strace.pid()))
        };
        wait_for("strace", Duration::from_secs(10), traced);
        send(scene, &format!("pid:{}", holder.pid)).says(&["is traced by"])
    });
}

/// A process of the user nobody.
fn of_nobody(scene: &mut Scene) -> Child {
    let child = Command::new("setpriv").args(NOBODY).args(["sleep", "60"]).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    wait_for("setpriv", Duration::from_secs(10), || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n")
    });
    scene.must_run(pid);
    child
}

fn others(rows: &mut Rows) {
    let as_nobody = |scene: &mut Scene, target: &str| {
        let mut command = scene.command("setpriv");
        command.env_remove("XDG_RUNTIME_DIR").args(NOBODY).arg(program("mig-send"));
        command.args(["--quiet", "--vm", target, "--to", "exec:cat >/dev/null"]);
        scene.run(&mut command)
    };
    rows.add("rights", "pid", "another user's process", "77", move |scene| {
        let holder = scene.holder(&["anon:8"]);
        as_nobody(scene, &format!("a=pid:{}", holder.pid)).says(&["CAP_SYS_PTRACE"])
    });
    rows.add("rights", "image", "another user's file", "77", move |scene| {
        let image = scene.image("img", 8);
        fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        scene.for_all();
        as_nobody(scene, &format!("a=image:{image}")).says(&["Permission denied"])
    });
    rows.add("rights", "pid", "may read and not stop it", "77", |scene| {
        let mut other = of_nobody(scene);
        let mut command = scene.command("setpriv");
        command.args(["--bounding-set", "-kill", "--inh-caps", "-kill"]).arg(program("mig-send"));
        let vm = format!("a=pid:{}", other.id());
        command.args(["--quiet", "--freeze", "stop", "--vm", &vm, "--to", "exec:cat >/dev/null"]);
        let got = scene.run(&mut command).says(&["CAP_KILL"]);
        other.kill().unwrap();
        other.wait().unwrap();
        got
    });
}

/// Moments at which a source of 512 pages at 1 MiB/s is met, in milliseconds.
const MOMENTS: [u64; 5] = [0, 30, 150, 400, 900];

fn leaving(rows: &mut Rows) {
    for moment in MOMENTS {
        for move_it in [false, true] {
            let mode = if move_it { "unix, --move" } else { "unix" };
            let point = format!("killed after {moment} ms");
            rows.add("source ends", mode, point, "send 66 recv 69", move |scene| {
                let mut holder = scene.holder(&["anon:512"]);
                let (sender, mut receiver) = slow(scene, &holder.target("a", 0), move_it);
                sleep(Duration::from_millis(moment));
                holder.kill();
                let send = sender.end().says(&[]);
                // where it ended before it was connected to, the receiver waits for another
                sleep(Duration::from_millis(100));
                if moment < 150 && receiver.lives() {
                    return format!("send {send} recv 69");
                }
                let recv = receiver.end().says(&["gave up", "cut off"]);
                format!("send {send} recv {}", if moment < 150 { "69" } else { &recv })
            });
        }
        let point = format!("runs another program after {moment} ms");
        rows.add("source ends", "unix", point, "send 66 recv 69", move |scene| {
            // only a process that runs can: so nothing holds it
            let mut shell = scene.command("python3");
            let code = "import os,sys,time\nb=bytearray(os.urandom(1<<21))\nopen(sys.argv[1],'w').close()\ntime.sleep(float(sys.argv[2]))\nos.execvp('sleep',['sleep','30'])";
            let ready = scene.keeps("ready");
            // sending begins when it is ready, and this much later it is another program
            let after = (moment + 400) as f64 / 1000.0;
            shell.args(["-c", code, &ready, &after.to_string()]);
            let shell = scene.start(&mut shell);
            wait_for("python", Duration::from_secs(10), || fs::exists(&ready).unwrap());
            let herd = scene.herd("h");
            let (receiver, to) = scene.listen(&["--into", &herd]);
            let vm = format!("a=pid:{}", shell.pid());
            let args = ["--vm", &vm, "--to", &to, "--rate", "1M", "--freeze", "none", "--filters", "none"];
            let send = scene.run(&mut scene.send(&args));
            format!("send {} recv {}", send.says(&["runs another program"]), receiver.end().says(&["gave up"]))
        });
    }
}

/// A sender that takes two seconds, into a herd.
fn slow(
    scene: &mut Scene,
    target: &str,
    move_it: bool,
) -> (crate::scene::Proc, crate::scene::Proc) {
    let herd = scene.herd("h");
    let (receiver, to) = scene.listen(&["--into", &herd]);
    let mut args = vec!["--vm", target, "--to", &to, "--rate", "1M", "--filters", "none"];
    if move_it {
        args.push("--move");
    }
    let sender = scene.start(&mut scene.send(&args));
    (sender, receiver)
}

fn images(rows: &mut Rows) {
    for (point, content) in
        [("empty", &b""[..]), ("smaller than a page", b"x"), ("an odd length", &[7; 9000])]
    {
        rows.add("image", "image", point, "66", move |scene| {
            let image = scene.file("img", content);
            send(scene, &format!("image:{image}")).says(&["empty", "not whole pages"])
        });
    }
    rows.add("image", "image", "not there", "66", |scene| {
        send(scene, "image:/none").says(&["No such file"])
    });
    rows.add("image", "image", "a folder", "66", |scene| {
        send(scene, "image:/").says(&["no regular file"])
    });
    rows.add("image", "image", "a named pipe", "66", |scene| {
        let fifo = scene.keeps("fifo");
        nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        send(scene, &format!("image:{fifo}")).says(&["no regular file"])
    });
    rows.add("image", "image", "a device without end", "66", |scene| {
        send(scene, "image:/dev/zero").says(&["no regular file"])
    });
    for moment in [0, 50, 300] {
        for what in ["shrinks", "is written to", "is longer"] {
            let point = format!("{what} after {moment} ms");
            rows.add("image changes", "unix", point, "send 1 recv 69", move |scene| {
                // longer than what is read ahead
                let image = scene.image("img", 4096);
                let herd = scene.herd("h");
                let (receiver, to) = scene.listen(&["--into", &herd]);
                let vm = format!("a=image:{image}");
                let args = ["--vm", &vm, "--to", &to, "--rate", "8M", "--filters", "none"];
                let sender = scene.start(&mut scene.send(&args));
                let pool = scene.path("h/pool");
                let sending = || fs::metadata(&pool).is_ok_and(|pool| pool.len() > 0);
                wait_for("the first page", Duration::from_secs(10), sending);
                sleep(Duration::from_millis(moment));
                let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
                match what {
                    "shrinks" => file.set_len(4096).unwrap(),
                    "is longer" => file.set_len(4100 * 4096).unwrap(),
                    _ => file.write_all_at(b"other", 4095 * 4096).unwrap(),
                }
                let (send, recv) = (sender.end(), receiver.end());
                let send = send.says(&["written to", "shorter now"]);
                // what is cut off is noticed where it is read, or else at the end
                let send = if what == "shrinks" && send == "74" { "1" } else { &send };
                format!("send {send} recv {}", recv.says(&["gave up"]))
            });
        }
    }
}
