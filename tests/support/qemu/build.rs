//! Guests that are to be started: which QEMU, which machine, what RAM, from where.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use super::super::root;
use super::Guest;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The machine `pc`, in the newest form that a QEMU has.
pub const PC: &str = "pc";
/// The machine `q35`, likewise.
pub const Q35: &str = "q35";

/// A QEMU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// The installed one: 7.2 on Debian 12.
    V7,
    /// The one that `scripts/guest-assets` puts beside it: 10.0.
    V10,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V7, Self::V10];

    fn folder() -> PathBuf {
        root().join("target/guest/qemu10")
    }

    /// Its program.
    pub fn program(self) -> PathBuf {
        match self {
            Self::V7 => "qemu-system-x86_64".into(),
            Self::V10 => Self::folder().join("usr/bin/qemu-system-x86_64"),
        }
    }

    pub(super) fn program_is_there(self) -> bool {
        self == Self::V7 || self.program().exists()
    }

    /// Where its firmware is.
    fn data(self) -> Vec<PathBuf> {
        match self {
            Self::V7 => Vec::new(),
            Self::V10 => ["usr/share/qemu", "usr/share/seabios"]
                .iter()
                .flat_map(|part| ["-L".into(), Self::folder().join(part)])
                .collect(),
        }
    }
}

/// How a guest gets its RAM.
#[derive(Clone, Debug)]
pub enum Ram {
    /// As QEMU does it unless told otherwise: private and anonymous.
    Anonymous,
    /// `memory-backend-memfd`.
    Memfd {
        /// Mapped shared.
        share: bool,
    },
    /// `memory-backend-file`.
    File {
        /// The file.
        path: PathBuf,
        /// Mapped shared.
        share: bool,
    },
}

/// A guest to be started.
#[derive(Clone, Debug)]
pub struct Build {
    /// The value of `-name`.
    pub name: String,
    /// The QEMU.
    pub version: Version,
    /// The machine: [`PC`], [`Q35`], or in full, as where it goes to another version.
    pub machine: String,
    /// Its RAM.
    pub ram: Ram,
    /// MiB of it.
    pub mib: u64,
    /// KiB more: see [`Build::small`].
    pub kib: u64,
    /// MiB that guest-work fills.
    pub work: u64,
    /// MiB behind them, untouched, that it can be told to fill.
    pub room: u64,
    /// Its seed: the second half of the work is alike for guests of one seed.
    pub seed: u64,
    /// Milliseconds between two checks of its memory.
    pub tick: u64,
    /// Linux is at one place at every boot.
    pub nokaslr: bool,
    /// What QEMU adds by itself: VGA, a network card and so on.
    pub defaults: bool,
    /// Under the seccomp filter that libvirt gives it: QEMU can start no program.
    pub sandbox: bool,
    /// Does not boot, but waits for a state: the value of `-incoming`.
    pub incoming: Option<String>,
    /// More arguments.
    pub more: Vec<String>,
}

impl Build {
    /// A guest of 160 MiB, 48 of them filled, with anonymous RAM: a `pc` in the installed QEMU.
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.into(),
            version: Version::V7,
            machine: PC.into(),
            ram: Ram::Anonymous,
            mib: 160,
            kib: 0,
            work: 48,
            room: 0,
            seed,
            tick: 200,
            nokaslr: false,
            defaults: false,
            sandbox: false,
            incoming: None,
            more: Vec::new(),
        }
    }

    /// A guest that boots and moves fast: 96 MiB, 16 of them filled, 16 more to be filled.
    ///
    /// QEMU 7.2 loses writes of a guest that runs under TCG while it moves: where RAM is a multiple
    /// of 256 KiB it takes a faster way through its dirty bits (`include/exec/ram_addr.h`,
    /// `cpu_physical_memory_sync_dirty_bitmap`), and forgets to have the translated code tell of the
    /// next write to these pages. Guests then end in a panic, or with memory that is older than it
    /// should be; measured with 7.2.22, and not with 10.0.2. So there are 8 KiB more.
    pub fn small(name: &str, version: Version, machine: &str) -> Self {
        let machine = machine.to_owned();
        Self { version, machine, mib: 96, kib: 8, work: 16, room: 16, ..Self::new(name, 1) }
    }

    /// With other RAM.
    pub fn ram(self, ram: Ram) -> Self {
        Self { ram, ..self }
    }

    /// With more arguments.
    pub fn more(self, args: &[&str]) -> Self {
        Self { more: args.iter().map(|&a| a.to_owned()).collect(), ..self }
    }

    /// Of the same shape, and waiting for a state: `exec:COMMAND`, `fd:0` (see
    /// [`Build::spawn_on`]), `defer`.
    pub fn incoming(&self, from: &str) -> Self {
        Self { incoming: Some(from.to_owned()), ..self.clone() }
    }

    /// Bytes of its RAM.
    pub const fn bytes(&self) -> u64 {
        (self.mib << 20) + (self.kib << 10)
    }

    fn memory(&self) -> Vec<String> {
        let Self { machine, .. } = self;
        let size = format!("{}K", self.bytes() >> 10);
        let backend = match &self.ram {
            Ram::Anonymous => {
                return vec!["-M".into(), machine.clone(), "-m".into(), size];
            }
            Ram::Memfd { share } => format!("memory-backend-memfd,share={}", on(*share)),
            Ram::File { path, share } => {
                format!("memory-backend-file,share={},mem-path={}", on(*share), path.display())
            }
        };
        let machine = format!("{machine},memory-backend=pc.ram");
        let object = format!("{backend},id=pc.ram,size={size}");
        vec!["-M".into(), machine, "-m".into(), size, "-object".into(), object]
    }

    /// Starts it and waits until it has filled its memory and checked it once.
    pub fn boot(&self) -> Guest {
        let guest = self.spawn();
        guest.wait_ticks(1);
        guest
    }

    /// Starts it.
    pub fn spawn(&self) -> Guest {
        self.spawn_with(Stdio::null())
    }

    /// Starts it with a descriptor as its standard input: what `-incoming fd:0` reads from. No other
    /// process that a test starts inherits it.
    pub fn spawn_on(&self, fd: OwnedFd) -> Guest {
        self.spawn_with(Stdio::from(fd))
    }

    fn spawn_with(&self, stdin: Stdio) -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let assets = root().join("target/guest");
        let at = |name: &str| dir.path().join(name).display().to_string();
        // The kernel ends QEMU with the thread that started it: also where a test is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(self.version.program()).args(self.version.data());
        if self.version == Version::V10 {
            // else it looks into the folder of the installed one, whose modules do not fit it
            let modules = Version::folder().join("usr/lib/x86_64-linux-gnu/qemu");
            command.env("QEMU_MODULE_DIR", modules);
        }
        // what QEMU itself starts is in its group, and goes with it: see Guest::kill
        command.process_group(0);
        if !self.defaults {
            command.arg("-nodefaults");
        }
        command
            .args(["-accel", "tcg", "-no-reboot", "-display", "none", "-name", &self.name])
            .args(self.memory())
            .arg("-serial")
            .arg(format!("file:{}", at("serial")))
            .arg("-serial")
            .arg(format!("unix:{},server=on,wait=off", at("commands")))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", at("qmp")))
            // a second one, so that whatever is under test can have the first
            .arg("-chardev")
            .arg(format!("socket,id=watch,path={},server=on,wait=off", at("watch")))
            .args(["-mon", "chardev=watch,mode=control"])
            .arg("-kernel")
            .arg(assets.join("vmlinuz"))
            .arg("-initrd")
            .arg(assets.join("initrd.gz"))
            .args(["-append", &self.kernel_line()])
            .args(&self.more);
        if self.sandbox {
            let deny = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
            command.arg("-sandbox").arg(format!("on,{deny}"));
        }
        if let Some(from) = &self.incoming {
            command.args(["-incoming", from]);
        }
        let child = command
            .stdin(stdin)
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        Guest::new(child, self, dir)
    }

    fn kernel_line(&self) -> String {
        let Self { work, room, seed, tick, .. } = self;
        let nokaslr = if self.nokaslr { " nokaslr" } else { "" };
        // no_timer_check: a guest that starts on a busy host may think its timer broken
        format!(
            "console=ttyS0 quiet panic=-1 no_timer_check{nokaslr} \
             work={work} room={room} seed={seed} tick={tick}"
        )
    }
}

const fn on(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Starts guests side by side and waits for all of them.
pub fn boot_all(builds: &[Build]) -> Vec<Guest> {
    let guests: Vec<Guest> = builds.iter().map(Build::spawn).collect();
    for guest in &guests {
        guest.wait_ticks(1);
    }
    guests
}
