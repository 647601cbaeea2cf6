//! Holds processes still, for the tests of what becomes of them when it is killed.
//!
//! ```text
//! freezer [way=auto|stop|cgroup|qmp] [socket=PATH] [patience=MILLISECONDS] PID…
//! ```
//! It prints a line for each thing that it has done: `guard PID`, `note WORDS`, `frozen PID HOW`,
//! `ready`. Then it takes commands, a line each, and answers each with a line: `check`, `keep`,
//! `unkeep`, `words`, `thaw`, `leave`, `drop`, `threads` (starts one), `abort`. At the end of its
//! input it ends without a word to what it holds. `hold PID` holds one more.

use pageherd::source::freeze::{Frozen, Guard, Options, Way};
use pageherd::sys::process::Process;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let guard = Guard::start()?;
    say(&format!("guard {}", guard.pid()));
    let mut options = Options::default();
    let mut pids = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.split_once('=') {
            Some(("way", "auto")) => options.way = Way::Auto,
            Some(("way", "stop")) => options.way = Way::Stop,
            Some(("way", "cgroup")) => options.way = Way::Cgroup,
            Some(("way", "qmp")) => options.way = Way::Qmp { socket: None },
            Some(("socket", path)) => options.way = Way::Qmp { socket: Some(path.into()) },
            Some(("patience", ms)) => options.patience = Duration::from_millis(ms.parse()?),
            _ => pids.push(arg.parse::<i32>()?),
        }
    }
    let mut held: Vec<Frozen> = Vec::new();
    for pid in pids {
        held.extend(hold(&guard, pid, &options));
    }
    say("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        if let Some(pid) = line.strip_prefix("hold ") {
            held.extend(hold(&guard, pid.parse()?, &options));
            continue;
        }
        match line.as_str() {
            "check" => answer(held.iter_mut().try_for_each(Frozen::check)),
            "keep" => answer(held.iter_mut().try_for_each(|f| f.keep_when_killed(true))),
            "unkeep" => answer(held.iter_mut().try_for_each(|f| f.keep_when_killed(false))),
            "words" => held.iter().for_each(|frozen| say(&frozen.words())),
            "thaw" => {
                for frozen in held.drain(..) {
                    match frozen.thaw() {
                        Ok(thawed) => say(&format!("thawed {:?}", thawed.now)),
                        Err(e) => say(&format!("error {}", in_one_line(&e))),
                    }
                }
            }
            "leave" => answer(held.drain(..).try_for_each(Frozen::leave)),
            "drop" => {
                held.clear();
                say("done");
            }
            "threads" => {
                std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
                say("done");
            }
            "abort" => std::process::abort(),
            other => say(&format!("error no command {other}")),
        }
    }
    std::process::exit(0);
}

fn hold(guard: &Guard, pid: i32, options: &Options) -> Option<Frozen> {
    let process = Process::open(pid).map_err(Box::<dyn Error>::from);
    match process.and_then(|process| Ok(guard.freeze(&process, options)?)) {
        Ok(frozen) => {
            frozen.notes().iter().for_each(|note| say(&format!("note {note}")));
            say(&format!("frozen {pid} {}", frozen.how().name()));
            Some(frozen)
        }
        Err(e) => {
            say(&format!("error {}", in_one_line(&*e)));
            None
        }
    }
}

fn answer<E: Error>(result: Result<(), E>) {
    match result {
        Ok(()) => say("done"),
        Err(e) => say(&format!("error {}", in_one_line(&e))),
    }
}

/// A reader that has gone is no reason to end otherwise than told.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
