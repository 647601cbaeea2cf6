//! Which process is a known VMM, and which of its mappings are guest RAM.
//!
//! The marks are those that the VMMs themselves set; each is named where it is used. A mapping that
//! is guest RAM but small (ROMs, video memory) counts too: it is memory of the guest.

use crate::abi::vma::{ANON_NAME, Vma};

/// A VMM that is known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vmm {
    /// QEMU, under any of its program names.
    Qemu,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// crosvm.
    Crosvm,
}

/// Which VMM a process is: by the file name of its program (`-name …,process=X` changes QEMU's
/// command name). By its command name, of which the kernel keeps 15 bytes, only where the program
/// may not be known: a script that is named like a VMM has its name and the shell's program.
pub fn identify(program: &str, comm: &str) -> Option<Vmm> {
    by_name(if program.is_empty() { comm } else { program })
}

fn by_name(name: &str) -> Option<Vmm> {
    // NixOS starts `.qemu-system-x86_64-wrapped`
    match name.trim_start_matches('.') {
        "kvm" => Some(Vmm::Qemu),
        "firecracker" => Some(Vmm::Firecracker),
        // the second is how the kernel cuts it
        "cloud-hypervisor" | "cloud-hyperviso" => Some(Vmm::CloudHypervisor),
        "crosvm" => Some(Vmm::Crosvm),
        other if other.starts_with("qemu-system-") || other.starts_with("qemu-kvm") => {
            Some(Vmm::Qemu)
        }
        _ => None,
    }
}

/// Smallest unit in which Firecracker lays out guest memory, in pages: 1 MiB.
const MIB_PAGES: u64 = 256;

impl Vmm {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::Firecracker => "Firecracker",
            Self::CloudHypervisor => "Cloud Hypervisor",
            Self::Crosvm => "crosvm",
        }
    }

    /// Is this mapping guest RAM?
    pub fn is_guest_ram(self, vma: &Vma) -> bool {
        let flags = vma.flags.unwrap_or_default();
        if !vma.read || !vma.write || vma.exec || flags.device {
            return false;
        }
        let private_anon = !vma.shared && vma.name == ANON_NAME;
        match self {
            // QEMU asks that no RAM block be copied by a fork (system/physmem.c, ram_block_add), and
            // nothing else of its memory: as many mappings have the flag as it has RAM blocks,
            // measured in nine configurations of 7.2. The TCG code buffer has it not.
            Self::Qemu => flags.dont_fork,
            // src/vmm/src/vstate/memory.rs: MAP_NORESERVE for anonymous memory and for the file of a
            // snapshot; a memfd where a vhost-user device needs one; MAP_HUGETLB. No madvise tells.
            Self::Firecracker => {
                memfd(vma, "guest_mem")
                    || vma.name.starts_with("/anon_hugepage")
                    || (!vma.shared
                        && flags.no_reserve
                        && !flags.accountable
                        && vma.pages.pages().is_multiple_of(MIB_PAGES))
            }
            // vmm/src/memory_manager.rs: MADV_DONTDUMP on every region.
            Self::CloudHypervisor => {
                flags.dont_dump && !flags.dont_expand && (memfd(vma, "ch_ram") || private_anon)
            }
            // vm_memory/src/guest_memory.rs: always one memfd of this name.
            Self::Crosvm => memfd(vma, "crosvm_guest"),
        }
    }
}

fn memfd(vma: &Vma, name: &str) -> bool {
    let rest = vma.name.strip_prefix("/memfd:").and_then(|n| n.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" (deleted)"))
}

/// The name of the guest on a QEMU command line: `-name web1` or `-name guest=web1,…`. Two commas
/// are one that belongs to a value (util/qemu-option.c, `get_opt_value`).
pub fn guest_name(cmdline: &[String]) -> Option<String> {
    let at = cmdline.iter().position(|arg| arg == "-name" || arg == "--name")?;
    let mut parts = vec![String::new()];
    let mut chars = cmdline.get(at + 1)?.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else {
            parts.last_mut()?.push(c);
        }
    }
    let guest = parts.iter().find_map(|part| part.strip_prefix("guest="));
    let name = guest.or_else(|| parts.first().map(String::as_str).filter(|p| !p.contains('=')))?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::vma::VmaFlags;
    use crate::base::PageRange;

    #[test]
    fn known_programs_are_known() {
        assert_eq!(identify("qemu-system-x86_64", "web1"), Some(Vmm::Qemu));
        assert_eq!(identify("", "qemu-system-x86"), Some(Vmm::Qemu));
        assert_eq!(identify("", "cloud-hyperviso"), Some(Vmm::CloudHypervisor));
        assert_eq!(identify("firecracker", ""), Some(Vmm::Firecracker));
        assert_eq!(identify("qemu-img", "qemu-img"), None);
        assert_eq!(identify("bash", "bash"), None);
        assert_eq!(identify(".qemu-system-x86_64-wrapped", "x"), Some(Vmm::Qemu));
        assert_eq!(identify("dash", "qemu-system-x86"), None, "a script of that name");
    }

    fn vma(name: &str, shared: bool, flags: VmaFlags) -> Vma {
        Vma {
            pages: PageRange::of(0x1000, 1024),
            read: true,
            write: true,
            exec: false,
            shared,
            file_page: 0,
            file: None,
            name: name.to_owned(),
            flags: Some(flags),
        }
    }

    /// The marks as `/proc/PID/smaps` shows them; the sources are named where the rules stand.
    #[test]
    fn guest_ram_is_told_by_each_vmms_own_mark() {
        let none = VmaFlags::default();
        let dc = VmaFlags { dont_fork: true, ..none };
        let nr = VmaFlags { no_reserve: true, ..none };
        let dd = VmaFlags { dont_dump: true, ..none };
        let device = VmaFlags { device: true, ..dc };
        assert!(Vmm::Qemu.is_guest_ram(&vma("anon", false, dc)));
        assert!(Vmm::Qemu.is_guest_ram(&vma("/dev/shm/ram", true, dc)));
        assert!(!Vmm::Qemu.is_guest_ram(&vma("anon", false, none)));
        assert!(!Vmm::Qemu.is_guest_ram(&vma("anon", false, device)));
        assert!(!Vmm::Qemu.is_guest_ram(&Vma { exec: true, ..vma("anon", false, dc) }));
        assert!(Vmm::Firecracker.is_guest_ram(&vma("anon", false, nr)));
        assert!(!Vmm::Firecracker.is_guest_ram(&vma("anon", false, none)));
        assert!(Vmm::Firecracker.is_guest_ram(&vma("/memfd:guest_mem (deleted)", true, none)));
        assert!(Vmm::CloudHypervisor.is_guest_ram(&vma("/memfd:ch_ram (deleted)", true, dd)));
        assert!(!Vmm::CloudHypervisor.is_guest_ram(&vma("anon", false, none)));
        assert!(Vmm::Crosvm.is_guest_ram(&vma("/memfd:crosvm_guest (deleted)", true, dd)));
        assert!(!Vmm::Crosvm.is_guest_ram(&vma("/memfd:crosvm_guest2 (deleted)", true, dd)));
    }

    #[test]
    fn a_guest_has_the_name_it_was_given() {
        let line =
            |args: &[&str]| guest_name(&args.iter().map(|&a| a.to_owned()).collect::<Vec<_>>());
        assert_eq!(line(&["qemu", "-name", "web1"]), Some("web1".into()));
        assert_eq!(line(&["qemu", "-name", "guest=db,debug-threads=on"]), Some("db".into()));
        assert_eq!(line(&["qemu", "-name", "debug-threads=on"]), None);
        assert_eq!(line(&["qemu", "-name", "guest=a,,b,process=c"]), Some("a,b".into()));
        assert_eq!(line(&["qemu", "-name", "process=c,guest=a=b"]), Some("a=b".into()));
        assert_eq!(line(&["qemu", "-m", "1"]), None);
        assert_eq!(line(&["qemu", "-name"]), None);
    }
}
