//! Command lines without sense, and addresses that must not be used.

use crate::matrix::Rows;
use crate::scene::{Scene, program};
use std::fs;
use std::process::{Command, Stdio};

type Args = &'static [&'static str];

/// What is wrong, the arguments, the exit code, a word of the message. `IMG` is an image in the
/// folder, `DIR` the folder, `PID` a process.
const SEND: &[(&str, Args, i32, &str)] = &[
    ("no VM", &[], 64, "--vm"),
    ("no such option", &["--frob"], 64, "mig-send --help"),
    ("no target", &["--vm", "4711"], 64, "pid:4711"),
    ("no kind of target", &["--vm", "vm:3"], 64, "unknown kind"),
    ("a name with a space", &["--vm", "a b=image:IMG"], 64, "cannot be a name"),
    ("a name with a slash", &["--vm", "a/b=image:IMG"], 64, "cannot be a name"),
    ("a name that hides", &["--vm", ".a=image:IMG", "--to", "exec:cat"], 64, "cannot be"),
    ("a name that is a folder", &["--vm", "..=image:IMG", "--to", "exec:cat"], 64, "cannot be"),
    ("no name", &["--vm", "=image:IMG"], 64, "cannot be a name"),
    ("two of a name", &["--vm", "a=image:IMG", "--vm", "a=image:IMG"], 64, "two VMs are named a"),
    ("one process twice", &["--vm", "a=pid:PID", "--vm", "b=pid:PID"], 64, "given twice"),
    (
        "two of a name, one foreign",
        &["--vm", "a=image:IMG", "--refer", "a=image:IMG"],
        64,
        "two VMs are named a",
    ),
    (
        "an address without a kind",
        &["--vm", "a=image:IMG", "--to", "nowhere"],
        64,
        "is not an address",
    ),
    (
        "an unknown kind of address",
        &["--vm", "a=image:IMG", "--to", "udp:h:1"],
        64,
        "is not an address",
    ),
    ("a port too high", &["--vm", "a=image:IMG", "--to", "tcp:h:65536"], 64, "HOST:PORT"),
    ("an abstract socket", &["--vm", "a=image:IMG", "--to", "unix:@x"], 64, "abstract"),
    ("no command", &["--vm", "a=image:IMG", "--to", "exec:"], 64, "command line"),
    ("a standard descriptor", &["--vm", "a=image:IMG", "--to", "fd:1"], 64, "from 3 on"),
    ("a descriptor that is closed", &["--vm", "a=image:IMG", "--to", "fd:77"], 74, "is it open"),
    ("an offset without sense", &["--vm", "a=image:IMG", "--to", "file:x,offset=-1"], 64, "offset"),
    ("an unknown filter", &["--vm", "a=image:IMG", "--filters", "magic"], 64, "magic"),
    ("a filter twice", &["--vm", "a=image:IMG", "--filters", "zero,zero"], 64, "twice"),
    ("an empty filter", &["--vm", "a=image:IMG", "--filters", "zero,,lz4"], 64, "filter"),
    (
        "a filter in the wrong place",
        &["--vm", "a=image:IMG", "--filters", "lz4,zero"],
        64,
        "too late",
    ),
    ("a level that does not exist", &["--vm", "a=image:IMG", "--filters", "zstd=99"], 64, "99"),
    ("an empty external filter", &["--vm", "a=image:IMG", "--filters", "exec:"], 64, "exec"),
    (
        "trust in a stranger",
        &["--vm", "a=image:IMG", "--trust", "b", "--to", "exec:cat"],
        64,
        "--trust names b",
    ),
    ("a template that is not there", &["--vm", "a=image:IMG", "--template", "none"], 66, "none"),
    (
        "a template that is a folder",
        &["--vm", "a=image:IMG", "--template", "DIR"],
        66,
        "no regular file",
    ),
    ("a way to freeze that does not exist", &["--vm", "a=image:IMG", "--freeze", "ice"], 64, "ice"),
    (
        "a monitor that is not there",
        &["--vm", "a=pid:PID", "--freeze", "qmp", "--to", "exec:cat"],
        66,
        "QMP socket",
    ),
    ("a session without sense", &["--resolve", "xyz"], 64, "32 hexadecimal digits"),
    (
        "a session and a VM",
        &["--resolve", "00000000000000000000000000000000", "--vm", "a=image:IMG"],
        64,
        "--vm",
    ),
    (
        "nobody to ask for a session",
        &["--resolve", "00000000000000000000000000000000", "--to", "file:x"],
        64,
        "no way back",
    ),
    ("a rate of nothing", &["--vm", "a=image:IMG", "--rate", "0"], 64, "never end"),
    ("a rate without sense", &["--vm", "a=image:IMG", "--rate", "fast"], 64, "fast"),
    ("one way without a move", &["--vm", "a=image:IMG", "--one-way"], 64, "--move"),
    (
        "a move that nobody confirms",
        &["--vm", "a=image:IMG", "--move", "--to", "file:DIR/x"],
        77,
        "--one-way",
    ),
    ("a bill and none", &["--vm", "a=image:IMG", "--json"], 64, "--quiet"),
    ("a certificate alone", &["--vm", "a=image:IMG", "--tls-cert", "x"], 64, "--tls-key"),
    ("too many threads", &["--vm", "a=image:IMG", "--threads", "99999"], 64, "1024"),
    (
        "another host in clear text",
        &["--vm", "a=image:IMG", "--to", "tcp:192.0.2.1:9"],
        77,
        "--insecure",
    ),
    (
        "every host in clear text",
        &["--vm", "a=image:IMG", "--to", "tcp:0.0.0.0:9"],
        77,
        "--insecure",
    ),
    (
        "tls without certificates",
        &["--vm", "a=image:IMG", "--to", "tls:127.0.0.1:9"],
        77,
        "--tls-cert",
    ),
    ("a folder as a file", &["--vm", "a=image:IMG", "--to", "file:DIR"], 77, "is a directory"),
    (
        "a folder that is not there",
        &["--vm", "a=image:IMG", "--to", "file:DIR/no/x"],
        66,
        "No such file",
    ),
    ("no listener at a port", &["--vm", "a=image:IMG", "--to", "tcp:127.0.0.1:1"], 69, "connect"),
    ("no socket", &["--vm", "a=image:IMG", "--to", "unix:DIR/none"], 66, "connect"),
    ("a file as a socket", &["--vm", "a=image:IMG", "--to", "unix:IMG"], 69, "connect"),
    (
        "no such command",
        &["--vm", "a=image:IMG", "--to", "exec:/nonexistent/x 2>/dev/null"],
        69,
        "is there such a program?",
    ),
    ("a key that is not there", &["--vm", "a=image:IMG", "--key", "none"], 66, "key none"),
    ("a key too short", &["--vm", "a=image:IMG", "--key", "SHORT"], 64, "at least 16"),
    ("a key that is a folder", &["--vm", "a=image:IMG", "--key", "DIR"], 74, "directory"),
];

const RECV: &[(&str, Args, i32, &str)] = &[
    ("nowhere to", &[], 64, "--into DIR"),
    ("two places", &["--into", "h", "--image", "a=x"], 64, "--image"),
    ("an image without a name", &["--image", "x"], 64, "NAME=FILE"),
    ("an image twice", &["--image", "a=x", "--image", "a=y"], 64, "twice"),
    ("an image that hides", &["--image", ".a=x"], 64, "NAME=FILE"),
    (
        "more addresses than streams",
        &["--into", "DIR/h", "--from", "unix:a", "--from", "unix:b"],
        64,
        "--streams 2",
    ),
    ("no stream", &["--discard", "--streams", "0"], 64, "--streams"),
    ("a bound without sense", &["--discard", "--max-ram", "much"], 64, "much"),
    ("an unknown user", &["--discard", "--user", "no-such-user"], 64, "no user"),
    ("an unknown option", &["--frob"], 64, "mig-recv --help"),
    ("a filter that is none", &["--discard", "--filter", "zstd"], 64, "exec:COMMAND"),
    ("a folder that is not there", &["--image", "a=none/x"], 66, "none cannot be opened"),
    ("a file as a herd", &["--into", "IMG"], 74, "directory"),
    ("a herd in no folder", &["--into", "DIR/no/such"], 74, "making the directory"),
    ("a template that is not there", &["--discard", "--template", "none"], 66, "none"),
    ("every host in clear text", &["--discard", "--from", "tcp:0.0.0.0:0"], 77, "--insecure"),
    ("every host, IPv6", &["--discard", "--from", "tcp:[::]:0"], 77, "--insecure"),
    ("tls without certificates", &["--discard", "--from", "tls:127.0.0.1:0"], 77, "--tls-cert"),
    ("a file as a socket", &["--discard", "--from", "unix:IMG"], 77, "no socket"),
    ("a socket in no folder", &["--discard", "--from", "unix:DIR/no/s"], 66, "No such file"),
    ("a stream that is not there", &["--discard", "--from", "file:none"], 66, "No such file"),
    ("a folder as a stream", &["--discard", "--from", "file:DIR"], 77, "is a directory"),
    ("an offset behind the end", &["--discard", "--from", "file:IMG,offset=1G"], 77, "offset"),
    ("a key that is not there", &["--discard", "--key", "none"], 66, "key none"),
    ("a key too short", &["--discard", "--key", "SHORT"], 64, "at least 16"),
    (
        "certificates that are not there",
        &[
            "--discard",
            "--from",
            "tls:127.0.0.1:0",
            "--tls-cert",
            "none",
            "--tls-key",
            "none",
            "--tls-ca",
            "none",
        ],
        66,
        "none",
    ),
];

pub(crate) fn add(rows: &mut Rows) {
    for (tool, table) in [("mig-send", SEND), ("mig-recv", RECV)] {
        for &(point, args, code, word) in table {
            rows.add("usage", tool, point, code.to_string(), move |scene| {
                let (mut command, _holder) = prepared(scene, tool, args);
                scene.run(&mut command).says(&[word])
            });
        }
    }
    for (tool, fd, args) in
        [("mig-send", 1, &["--vm", "a=image:IMG"][..]), ("mig-recv", 0, &["--discard"])]
    {
        rows.add("usage", tool, "a terminal as the stream", "64", move |scene| {
            let (mut command, _holder) = prepared(scene, tool, args);
            let name = scene.path("words");
            let mut line = vec![program(tool), "--quiet".to_owned()];
            line.extend(command.get_args().skip(1).map(|a| a.to_string_lossy().into_owned()));
            // util-linux's script gives the command a terminal; its errors go to a file
            let mut inner = format!("{} 2>{name}", line.join(" "));
            if fd == 0 {
                inner.push_str(" >/dev/null");
            }
            command = scene.command("script");
            command.args(["-qec", &inner, "/dev/null"]);
            let mut out = scene.run(&mut command);
            out.err = fs::read_to_string(&name).unwrap_or_default();
            let _ = fs::remove_file(&name);
            out.out.clear();
            out.says(&["is a terminal"])
        });
    }
    for (tool, fd, code) in [("mig-send", ">&-", "74"), ("mig-recv", "<&-", "65")] {
        rows.add("usage", tool, "the stream is closed", code, move |scene| {
            let args: &[&str] =
                if tool == "mig-send" { &["--vm", "a=image:IMG"] } else { &["--discard"] };
            let (command, _holder) = prepared(scene, tool, args);
            let mut shell = scene.command("sh");
            shell.args(["-c", &format!("exec \"$0\" \"$@\" {fd}"), &program(tool)]);
            shell.args(command.get_args()).stdin(Stdio::null());
            scene.run(&mut shell).says(&[])
        });
    }
}

/// The command of a row, and the process that it may name.
fn prepared(
    scene: &mut Scene,
    tool: &str,
    args: &[&str],
) -> (Command, Option<crate::support::Holder>) {
    let image = scene.image("img", 8);
    let short = scene.file("short", b"0123456789abcde");
    let folder = scene.folder().to_str().unwrap().to_owned();
    let names_process = args.iter().any(|arg| arg.contains("PID"));
    let holder = names_process.then(|| scene.holder(&["anon:8"]));
    let pid = holder.as_ref().map_or_else(String::new, |h| h.pid.to_string());
    let whole = |arg: &&str| {
        arg.replace("IMG", &image)
            .replace("SHORT", &short)
            .replace("DIR", &folder)
            .replace("PID", &pid)
    };
    let args: Vec<String> = args.iter().map(whole).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let command = if tool == "mig-send" { scene.send(&args) } else { scene.recv(&args) };
    (command, holder)
}
