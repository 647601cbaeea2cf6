//! Real guests: QEMU under TCG, the Linux of `scripts/guest-assets` in it, and a slow count of
//! their memory that knows nothing of the code under test.

#![allow(unused_imports)] // each test binary uses a part

mod build;
mod guest;
mod memory;
mod qmp;
mod template;

pub use build::{Build, PC, Q35, Ram, Version, boot_all};
pub use guest::{Frozen, Guest, work_page};
pub use memory::{Counted, Entry, Mapping, Slow, file_pages, mapped_file, mappings};
pub use qmp::Qmp;
pub use template::Template;

use super::{root, skip};
use std::process::Command;
use std::sync::Once;

/// The `exec:` of a command that ends with its QEMU, also where that is killed: the kernel sees to it,
/// as it does for QEMU (`exec` twice, so that the command is QEMU's own child and no shell is left
/// between them; one command, as a pipeline would leave its shell alone to be ended).
pub fn exec(command: &str) -> String {
    let quoted = command.replace('\'', r"'\''");
    format!("exec:exec setpriv --pdeathsig KILL sh -c 'exec {quoted}'")
}

/// What the guests need is there: made on the first call where it is missing. Where it cannot be
/// had, says so in the name of `test`.
pub fn ready(test: &str) -> bool {
    ready_with(test, &[])
}

/// [`ready`], and these QEMUs are there.
pub fn ready_with(test: &str, versions: &[Version]) -> bool {
    static MAKE: Once = Once::new();
    if Command::new(Version::V7.program()).arg("--version").output().is_err() {
        skip(test, &format!("{} is not installed", Version::V7.program().display()));
        return false;
    }
    let there = |name: &str| root().join("target/guest").join(name).exists();
    let lacks = || {
        if !(there("vmlinuz") && there("initrd.gz")) {
            return Some(
                "scripts/guest-assets failed: the test guest could not be made".to_owned(),
            );
        }
        let lacks = versions.iter().find(|version| !version.program_is_there());
        lacks.map(|version| format!("scripts/guest-assets could not make QEMU {version:?}"))
    };
    if lacks().is_some() {
        // once: where there is no network it takes its time
        MAKE.call_once(|| {
            let _ = Command::new(root().join("scripts/guest-assets")).status();
        });
    }
    if let Some(lacks) = lacks() {
        skip(test, &lacks);
        return false;
    }
    true
}
