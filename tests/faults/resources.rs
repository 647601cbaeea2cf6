//! Disks that are full, limits of the process and of its control group.

use crate::herds::whole;
use crate::matrix::Rows;
use crate::scene::{Out, Scene, memory, program};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn add(rows: &mut Rows) {
    full(rows);
    limits(rows);
    memory_group(rows);
    read_only(rows);
}

/// Runs a command in a mount namespace of its own, in which `full` is a file system of `size`. What
/// it left there is appended to its standard output.
fn on_small(scene: &mut Scene, size: &str, kind: &str, command: &str) -> Out {
    let mount = scene.keeps("full");
    fs::create_dir_all(&mount).unwrap();
    let make = if kind == "tmpfs" {
        format!("mount -t tmpfs -o size={size} none full")
    } else {
        format!(
            "truncate -s {size} disk && mkfs.ext4 -qF -O ^has_journal disk && mount -o loop disk full && rmdir full/lost+found"
        )
    };
    let script = format!(
        "cd '{}'; set -e; PATH=$PATH:/usr/sbin:/sbin; {make}; set +e; {command}; code=$?; \
         find full -mindepth 1 | sort >left; umount full; exit $code",
        scene.folder().display()
    );
    let mut unshare = scene.command("unshare");
    unshare.args(["-m", "sh", "-c", &script]);
    scene.run(&mut unshare)
}

fn left(scene: &Scene) -> String {
    let text = fs::read_to_string(scene.path("left")).unwrap_or_default();
    let _ = fs::remove_file(scene.path("left"));
    let _ = fs::remove_file(scene.path("disk"));
    text.lines().map(|line| line.trim_start_matches("full/")).collect::<Vec<_>>().join(" ")
}

fn full(rows: &mut Rows) {
    let (send, recv) = (|| program("mig-send"), || program("mig-recv"));
    for kind in ["tmpfs", "ext4"] {
        rows.add(
            "full disk",
            "herd",
            format!("{kind} of 1 MiB"),
            "74; h h/journal h/lock h/pool",
            move |scene| {
                if kind == "ext4" {
                    scene.on_disk();
                }
                scene.stream("x", 1024, &["--filters", "none"]);
                let command = format!("'{}' --quiet --into full/h --from file:x", recv());
                let got = on_small(scene, "1m", kind, &command).says(&["No space left"]);
                format!("{got}; {}", left(scene))
            },
        );
        rows.add("full disk", "image", format!("{kind} of 1 MiB"), "74; ", move |scene| {
            if kind == "ext4" {
                scene.on_disk();
            }
            scene.stream("x", 1024, &["--filters", "none"]);
            let command = format!("'{}' --quiet --image a=full/i --from file:x", recv());
            let got = on_small(scene, "1m", kind, &command).says(&["No space left", "too large"]);
            format!("{got}; {}", left(scene))
        });
        rows.add("full disk", "file", format!("{kind} of 1 MiB"), "74; ", move |scene| {
            if kind == "ext4" {
                scene.on_disk();
            }
            let image = scene.image("img", 1024);
            let command = format!(
                "'{}' --quiet --vm a=image:{image} --filters none --to file:full/x",
                send()
            );
            let got = on_small(scene, "1m", kind, &command).says(&["No space left"]);
            format!("{got}; {}", left(scene))
        });
    }
    rows.add("full disk", "unix", "the sender is told why", "send 74 recv 74", move |scene| {
        scene.image("img", 1024);
        let command = format!(
            "'{}' --quiet --into full/h --from unix:full/s 2>recv.err & \
             while ! [ -S full/s ]; do sleep 0.02; done; \
             '{}' --quiet --vm a=image:img --filters none --to unix:full/s; send=$?; wait $!; echo $? >recv.code; exit $send 2>/dev/null",
            recv(), send()
        );
        // the subshell's exit must not pass over what is behind it
        let out = on_small(scene, "1m", "tmpfs", &format!("({command})"));
        left(scene);
        let recv = fs::read_to_string(scene.keeps("recv.code")).unwrap_or_default();
        scene.keeps("recv.err");
        format!("send {} recv {}", out.says(&["refuses", "No space left"]), recv.trim())
    });
    rows.add(
        "full disk",
        "herd",
        "a second VM does not fit: the first stays",
        "74; first whole",
        move |scene| {
            scene.stream("x", 100, &["--filters", "none"]);
            scene.image("big", 1024);
            let command = format!(
                "(set -e; '{recv}' --quiet --into full/h --from file:x; \
             '{send}' --quiet --vm b=image:big --filters none --to file:y; \
             code=0; '{recv}' --quiet --into full/h --from file:y || code=$?; \
             '{send}' --quiet --vm a=herd:full/h/a --to file:back; exit $code)",
                recv = recv(),
                send = send()
            );
            let got = on_small(scene, "1m", "tmpfs", &command).says(&["No space left"]);
            left(scene);
            scene.keeps("y");
            let (back, image) = (scene.keeps("back"), scene.keeps("back.img"));
            let (to, from) = (format!("a={image}"), format!("file:{back}"));
            scene.run(&mut scene.recv(&["--image", &to, "--from", &from]));
            let same = fs::read(&image).is_ok_and(|bytes| bytes == memory(100));
            format!("{got}; first {}", if same { "whole" } else { "gone" })
        },
    );
    rows.add("full disk", "herd", "not one page free", "74; ", move |scene| {
        scene.stream("x", 16, &[]);
        let command = format!(
            "dd if=/dev/zero of=full/fill bs=4k count=64 2>/dev/null; '{}' --quiet --into full/h --from file:x; code=$?; rm -f full/fill; (exit $code)",
            recv()
        );
        let got = on_small(scene, "16k", "tmpfs", &command).says(&["No space left"]);
        let left = left(scene);
        format!("{got}; {}", if left.contains(".map") { left } else { String::new() })
    });
}

fn limits(rows: &mut Rows) {
    for files in [4, 6, 8, 10, 12, 16, 24] {
        for mode in ["herd", "image", "send"] {
            rows.add("limit", mode, format!("{files} descriptors"), "done or said", move |scene| {
                limited(scene, mode, &format!("ulimit -n {files}"))
            });
        }
    }
    for megabytes in [48, 64, 96, 128, 256] {
        for mode in ["herd", "send"] {
            rows.add(
                "limit",
                mode,
                format!("{megabytes} MiB of address space"),
                "done or said",
                move |scene| limited(scene, mode, &format!("ulimit -v {}", megabytes * 1024)),
            );
        }
    }
    for kilobytes in [4, 16, 64] {
        for mode in ["herd", "image", "send"] {
            rows.add(
                "limit",
                mode,
                format!("files of {kilobytes} KiB"),
                "done or said",
                move |scene| limited(scene, mode, &format!("ulimit -f {kilobytes}")),
            );
        }
    }
    for tasks in [1, 2] {
        for mode in ["herd", "send"] {
            rows.add("limit", mode, format!("{tasks} processes and threads"), "done or said", move |scene| {
                scene.for_all();
                let line = format!("exec setpriv --reuid=65534 --regid=65534 --clear-groups prlimit --nproc={tasks} \"$0\" \"$@\"");
                fs::set_permissions(scene.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
                limited_by(scene, mode, &line)
            });
        }
    }
}

fn limited(scene: &mut Scene, mode: &str, limit: &str) -> String {
    limited_by(scene, mode, &format!("{limit} 2>/dev/null; exec \"$0\" \"$@\""))
}

/// Under a limit a command does all or says in one line why not.
fn limited_by(scene: &mut Scene, mode: &str, line: &str) -> String {
    let (_, content) = scene.stream("x", 64, &[]);
    let _ =
        fs::set_permissions(scene.path("x"), std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut shell = scene.command("sh");
    shell.args(["-c", line]);
    let herd = scene.herd("h");
    match mode {
        "herd" => {
            shell.args([&program("mig-recv"), "--quiet", "--into", &herd, "--from", "file:x"])
        }
        "image" => {
            shell.args([&program("mig-recv"), "--quiet", "--image", "a=back", "--from", "file:x"])
        }
        _ => shell.args([
            &program("mig-send"),
            "--quiet",
            "--vm",
            "a=image:x.image",
            "--to",
            "file:y",
        ]),
    };
    let out = scene.run(&mut shell);
    if out.code != 0 {
        // the loader may not get so far as to run us
        let early = out.code == 127 || out.err.contains("error while loading");
        let said = out.says(&[]);
        return if early || said.parse::<i32>().is_ok_and(|code| code != 70) {
            "done or said".into()
        } else {
            said
        };
    }
    let good = match mode {
        "herd" => {
            scene.keeps("h/a.map");
            whole(scene, &herd, "a", &content) == "old whole"
        }
        "image" => fs::read(scene.keeps("back")).unwrap() == content,
        _ => fs::exists(scene.keeps("y")).unwrap(),
    };
    if good { "done or said".into() } else { "done wrongly".into() }
}

/// A control group that goes with this value.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("pageherd-fault-{}-{limit}", std::process::id());
        let folder = Path::new("/sys/fs/cgroup/memory").join(name);
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn memory_group(rows: &mut Rows) {
    for (mode, flags) in [("zeros", "none"), ("zstd", "zstd"), ("lz4", "lz4")] {
        rows.add("memory group of 64 MiB", mode, "256 MiB are received", "0", move |scene| {
            scene.on_disk();
            let image = scene.keeps("img");
            let mut bytes = vec![if mode == "zeros" { 0 } else { 7 }; 256 << 20];
            bytes[0] = 1;
            fs::write(&image, bytes).unwrap();
            let (vm, to) = (format!("a=image:{image}"), format!("file:{}", scene.keeps("x")));
            let filters = if mode == "zeros" { "zero" } else { flags };
            let args = ["--vm", &vm, "--to", &to, "--filters", filters, "--keep-filters"];
            let out = scene.run(&mut scene.send(&args)).says(&[]);
            if out != "0" {
                return out;
            }
            fs::write(&image, "").unwrap();
            let Some(group) = Group::new((64 << 20) + filters.len() as u64 * 4096) else {
                crate::support::skip("memory group", "no memory controller of cgroup v1");
                return "0".into();
            };
            let line = format!(
                "echo $$ >'{}/cgroup.procs'; exec \"$0\" --quiet --discard --from file:x",
                group.0.display()
            );
            let mut shell = scene.command("sh");
            shell.args(["-c", &line, &program("mig-recv")]);
            scene.run(&mut shell).says(&[])
        });
    }
    rows.add("memory group of 8 MiB", "unix", "the receiver is killed by the kernel", "send 69, nothing kept", |scene| {
        let Some(group) = Group::new(8 << 20) else {
            crate::support::skip("memory group", "no memory controller of cgroup v1");
            return "send 69, nothing kept".into();
        };
        let (herd, socket) = (scene.herd("h"), scene.path("socket"));
        let line = format!("echo $$ >'{}/cgroup.procs'; exec \"$0\" --quiet --into '{herd}' --from 'unix:{socket}'", group.0.display());
        let mut shell = scene.command("sh");
        shell.args(["-c", &line, &program("mig-recv")]);
        let receiver = scene.start(&mut shell);
        crate::support::wait_for("the socket", std::time::Duration::from_secs(10), || fs::exists(&socket).unwrap());
        let (vm, to) = (format!("a=image:{}", scene.image("img", 8192)), format!("unix:{socket}"));
        let send = scene.run(&mut scene.send(&["--vm", &vm, "--to", &to, "--filters", "none"]));
        let recv = receiver.end();
        drop(group);
        // the next receiver gives back what this one could not
        let _ = scene.run(&mut scene.recv(&["--into", &herd, "--from", "exec:true"]));
        let kept = fs::exists(format!("{herd}/a.map")).unwrap();
        if recv.code != -9 {
            return format!("the receiver {}", recv.whole());
        }
        format!("send {}, {}", send.says(&["gone", "answer"]), if kept { "kept" } else { "nothing kept" })
    });
}

fn read_only(rows: &mut Rows) {
    for mode in ["herd", "image", "file"] {
        rows.add("read-only file system", mode, "from the beginning", "74", move |scene| {
            scene.stream("x", 16, &[]);
            fs::create_dir(scene.keeps("full")).unwrap();
            let command = match mode {
                "herd" => format!("'{}' --quiet --into full/h --from file:x", program("mig-recv")),
                "image" => {
                    format!("'{}' --quiet --image a=full/i --from file:x", program("mig-recv"))
                }
                _ => format!(
                    "'{}' --quiet --vm a=image:x.image --to file:full/y",
                    program("mig-send")
                ),
            };
            let script = format!("mount -t tmpfs -o ro none full && {command}");
            let mut unshare = scene.command("unshare");
            unshare.args(["-m", "sh", "-c", &script]);
            scene.run(&mut unshare).says(&["Read-only file system"])
        });
    }
}
