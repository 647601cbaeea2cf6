//! Ways from one QEMU to another.

use crate::support::qemu::{Build, Guest, exec};
use crate::support::{tool, wait_for};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A new FIFO in a guest's folder.
pub(crate) fn fifo(guest: &Guest, name: &str) -> PathBuf {
    let path = guest.path(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    path
}

/// A program that takes what QEMU sends to a file or FIFO.
pub(crate) fn into(path: &Path) -> String {
    exec(&format!("cat > {}", path.display()))
}

/// A program that gives it back.
pub(crate) fn from(path: &Path) -> String {
    exec(&format!("cat {}", path.display()))
}

/// Moves a guest by a FIFO between two programs, and says what the source's QEMU counted. It
/// must run at the other end, and nowhere else.
pub(crate) fn by_fifo(source: &Guest, to: &Build) -> (Guest, Value) {
    let path = fifo(source, "road");
    let there = to.incoming(&from(&path)).spawn();
    source.control().migrate(&into(&path));
    let counted = arrived(source, &there);
    std::fs::remove_file(path).unwrap();
    (there, counted)
}

/// Moves a guest by a pipe that neither QEMU has opened itself.
pub(crate) fn by_descriptor(source: &Guest, to: &Build) -> (Guest, Value) {
    let (reader, writer) = std::io::pipe().unwrap();
    let there = to.incoming("fd:0").spawn_on(reader.into());
    let mut control = source.control();
    control.getfd("road", &writer);
    drop(writer);
    control.migrate("fd:road");
    drop(control);
    let counted = arrived(source, &there);
    (there, counted)
}

fn arrived(source: &Guest, there: &Guest) -> Value {
    source.control().wait_migrated();
    there.control().wait_runstate("running");
    assert_eq!(source.control().runstate(), "postmigrate");
    source.control().migration()
}

/// A way by `mig-send --qemu` and `mig-recv --qemu`, and what they said.
pub(crate) struct Far {
    name: String,
    socket: PathBuf,
    sent: PathBuf,
    received: PathBuf,
}

impl Far {
    /// With its files in a guest's folder.
    pub(crate) fn new(guest: &Guest, name: &str) -> Self {
        let [socket, sent, received] = ["socket", "sent", "received"].map(|f| guest.path(f));
        Self { name: name.into(), socket, sent, received }
    }

    /// What the QEMU that waits starts.
    pub(crate) fn receiver(&self, more: &str) -> String {
        let Self { name, socket, received, .. } = self;
        let program = tool("mig-recv").get_program().to_string_lossy().into_owned();
        exec(&format!(
            "{program} --qemu --vm {name} --from unix:{} {more} 2>{}",
            socket.display(),
            received.display()
        ))
    }

    /// What the QEMU that gives the guest away starts.
    pub(crate) fn sender(&self, more: &str) -> String {
        let Self { name, socket, sent, .. } = self;
        wait_for("the receiver listens", Duration::from_secs(20), || socket.exists());
        let program = tool("mig-send").get_program().to_string_lossy().into_owned();
        exec(&format!(
            "{program} --qemu --json --vm {name} --to unix:{} {more} 2>{}",
            socket.display(),
            sent.display()
        ))
    }

    /// What both said.
    pub(crate) fn said(&self) -> String {
        let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        format!("{}{}", text(&self.sent), text(&self.received))
    }

    /// The bill.
    pub(crate) fn bill(&self) -> Value {
        let mut bill = Value::Null;
        wait_for("the bill", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(&self.sent).unwrap_or_default();
            bill = text.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or_default();
            !bill.is_null()
        });
        bill
    }
}
