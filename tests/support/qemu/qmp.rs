//! QEMU's control socket, for tests.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use super::super::wait_for;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// QEMU's control socket.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// What QEMU has told unasked: names of events, in order.
    pub events: Vec<String>,
}

impl Qmp {
    /// Opens the control socket at `path`.
    pub fn at(path: &Path) -> Self {
        let mut stream = None;
        wait_for("the control socket", Duration::from_secs(10), || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut qmp = Self { path: path.to_owned(), stream, lines, events: Vec::new() };
        qmp.ask("qmp_capabilities", &json!({}));
        qmp
    }

    /// Hangs up and connects anew: what was given by [`Qmp::getfd`] may be gone.
    pub fn reconnect(self) -> Self {
        let path = self.path.clone();
        drop(self);
        Self::at(&path)
    }

    /// Asks and returns the answer, or what QEMU says against it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        writeln!(self.stream, "{}", json!({"execute": command, "arguments": arguments}))
            .map_err(|e| format!("{command}: {e}"))?;
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> Result<Value, String> {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).map_err(|e| format!("{command}: {e}"))?;
            if read == 0 {
                return Err(format!("QEMU hung up at {command}"));
            }
            let said: Value = serde_json::from_str(&line).unwrap();
            if let Some(error) = said.get("error") {
                return Err(format!("{command}: {}", error["desc"].as_str().unwrap_or(&line)));
            }
            if let Some(answer) = said.get("return") {
                return Ok(answer.clone());
            }
            self.events.extend(said["event"].as_str().map(str::to_owned));
        }
    }

    /// Asks what must be answered.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.execute(command, arguments).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Begins to migrate, and does not wait.
    pub fn migrate(&mut self, uri: &str) {
        self.ask("migrate", &json!({"uri": uri}));
    }

    /// Lets in what was started with `-incoming defer`.
    pub fn migrate_incoming(&mut self, uri: &str) {
        self.ask("migrate-incoming", &json!({"uri": uri}));
    }

    /// Turns a capability of migration on or off.
    pub fn set_capability(&mut self, name: &str, on: bool) {
        let capability = json!([{"capability": name, "state": on}]);
        self.ask("migrate-set-capabilities", &json!({"capabilities": capability}));
    }

    /// Sets parameters of migration: `json!({"max-bandwidth": 1 << 30})`, in bytes a second.
    pub fn set_parameters(&mut self, parameters: &Value) {
        self.ask("migrate-set-parameters", parameters);
    }

    /// No limit to the bytes a second: what QEMU has of its own accord is 128 MiB.
    pub fn unthrottle(&mut self) {
        self.set_parameters(&json!({"max-bandwidth": 100_u64 << 30}));
    }

    /// All that `query-migrate` says.
    pub fn migration(&mut self) -> Value {
        self.ask("query-migrate", &json!({}))
    }

    /// Its `status`; `none` where there was no migration.
    pub fn migration_status(&mut self) -> String {
        self.migration()["status"].as_str().unwrap_or("none").to_owned()
    }

    /// Waits until a migration is in one of these states, and says in which. Panics where it
    /// completes or fails otherwise.
    pub fn wait_status(&mut self, any: &[&str], most: Duration) -> String {
        let end = Instant::now() + most;
        loop {
            let said = self.migration();
            let status = said["status"].as_str().unwrap_or("none");
            if any.contains(&status) {
                return status.to_owned();
            }
            let over = ["completed", "failed", "cancelled"].contains(&status);
            assert!(!over && Instant::now() < end, "waited in vain for {any:?}: {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a migration is over and well.
    pub fn wait_migrated(&mut self) {
        self.wait_status(&["completed"], Duration::from_secs(60));
    }

    /// What the machine does: `running`, `paused`, `inmigrate`, `postmigrate` …
    pub fn runstate(&mut self) -> String {
        self.ask("query-status", &json!({}))["status"].as_str().unwrap().to_owned()
    }

    /// Waits until it does that.
    pub fn wait_runstate(&mut self, state: &str) {
        wait_for(state, Duration::from_secs(60), || self.runstate() == state);
    }

    /// Stands still.
    pub fn stop(&mut self) {
        self.ask("stop", &json!({}));
    }

    /// Goes on.
    pub fn cont(&mut self) {
        self.ask("cont", &json!({}));
    }

    /// Gives QEMU a descriptor, which `fd:NAME` then means. It has a copy: ours is to be closed.
    pub fn getfd(&mut self, name: &str, fd: impl AsFd) {
        let line = json!({"execute": "getfd", "arguments": {"fdname": name}}).to_string() + "\n";
        let fds = [fd.as_fd().as_raw_fd()];
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(line.as_bytes())],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        );
        assert_eq!(sent.unwrap(), line.len());
        self.answer("getfd").unwrap_or_else(|e| panic!("{e}"));
    }
}
