//! What keeps pages from being shared: the words, what they mean and what to change.

use serde::Serialize;

/// What keeps a page from being shared. In the order in which they are looked for: what can never
/// merge before what has not merged yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A page of hugetlb: the kernel never merges those.
    Hugetlb,
    /// Mapped `MAP_SHARED`: KSM merges private anonymous memory only.
    MappedShared,
    /// A page of a file, not written since it was mapped: KSM merges anonymous memory only.
    FilePage,
    /// Nobody has declared the memory mergeable.
    NotMergeable,
    /// The content changed while it was looked at.
    Volatile,
    /// The kernel has no KSM.
    KsmAbsent,
    /// KSM does not run.
    KsmOff,
    /// Its content is zero, and KSM keeps zeros like any other content.
    Zeros,
    /// On different NUMA nodes, which KSM was told not to merge across.
    OtherNode,
    /// The content is merged already, on as many frames as `max_page_sharing` makes necessary.
    MaxPageSharing,
    /// Part of a transparent huge page, which KSM has to split first.
    HugePage,
    /// KSM runs and has not come round to it.
    StillScanning,
}

impl Cause {
    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hugetlb => "hugetlb",
            Self::MappedShared => "mapped-shared",
            Self::FilePage => "file-page",
            Self::NotMergeable => "not-mergeable",
            Self::Volatile => "volatile",
            Self::KsmAbsent => "ksm-absent",
            Self::KsmOff => "ksm-off",
            Self::Zeros => "zeros",
            Self::OtherNode => "other-node",
            Self::MaxPageSharing => "max-page-sharing",
            Self::HugePage => "huge-page",
            Self::StillScanning => "still-scanning",
        }
    }

    /// What it means, in a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Hugetlb => "hugetlb pages are never merged",
            Self::MappedShared => {
                "mapped MAP_SHARED (a memfd, a tmpfs file): KSM merges private anonymous memory only, and does nothing here"
            }
            Self::FilePage => "page of a file not written since: KSM merges anonymous memory only",
            Self::NotMergeable => {
                "nobody declared the memory MERGEABLE, so KSM does not look at it"
            }
            Self::Volatile => "the content changed while it was looked at",
            Self::KsmAbsent => "this kernel has no KSM (CONFIG_KSM)",
            Self::KsmOff => "the memory is mergeable, but KSM does not run",
            Self::Zeros => "pages of zeros, which KSM merges like any other content",
            Self::OtherNode => {
                "the equal pages are on different NUMA nodes and merge_across_nodes is 0"
            }
            Self::MaxPageSharing => {
                "merged already; max_page_sharing makes further frames necessary"
            }
            Self::HugePage => {
                "part of a transparent huge page, which must be split before it merges"
            }
            Self::StillScanning => {
                "KSM runs and has not come round to it, or passes it over for now"
            }
        }
    }

    /// What to change.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Hugetlb => {
                "use 4 KiB pages for guests that should merge, or share a template file"
            }
            Self::MappedShared => {
                "where no vhost-user or fd handover needs it, use private memory (QEMU: memory-backend-ram, or share=off; Cloud Hypervisor: shared=off), or start clones from one template file"
            }
            Self::FilePage => "map the same file in both, so that the page cache is shared",
            Self::NotMergeable => {
                "QEMU: -machine mem-merge=on; Cloud Hypervisor: mergeable=on; any program: prctl(PR_SET_MEMORY_MERGE) or MemoryKSM=yes in its systemd unit"
            }
            Self::Volatile => "nothing: memory that changes this fast does not stay merged",
            Self::KsmAbsent => "use a kernel with CONFIG_KSM=y",
            Self::KsmOff => "echo 1 > /sys/kernel/mm/ksm/run (or start ksmtuned)",
            Self::Zeros => {
                "echo 1 > /sys/kernel/mm/ksm/use_zero_pages, or give free memory back (balloon, free page reporting)"
            }
            Self::OtherNode => {
                "echo 1 > /sys/kernel/mm/ksm/merge_across_nodes (needs run=2 first), or put the VMs on one node"
            }
            Self::MaxPageSharing => {
                "raise /sys/kernel/mm/ksm/max_page_sharing (needs run=2 first); the gain is small"
            }
            Self::HugePage => {
                "wait for KSM to split it, or use huge pages less there: madvise(MADV_NOHUGEPAGE), transparent_hugepage/enabled=never"
            }
            Self::StillScanning => {
                "wait for two full scans, or raise /sys/kernel/mm/ksm/pages_to_scan; see 'memscan ksm'"
            }
        }
    }
}
