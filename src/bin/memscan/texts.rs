//! The long texts: what `--help` and the manual say beyond the flags. One source for both.

use pageherd::cli::page::{Page, Part, Section};

/// The targets, for the page of the command itself.
const TARGETS: Section = Section {
    title: "Targets",
    parts: &[
        Part::Text(
            "A target is [NAME=]KIND:VALUE. A VM is what a target names; NAME is what the report \
             calls it (letters, digits, dots, dashes, underscores), else the guest's name on \
             QEMU's command line, or the command name and the process ID.",
        ),
        Part::Terms(&[
            (
                "pid:N",
                "A process. Of a VMM that is known (QEMU, Firecracker, Cloud Hypervisor, crosvm) \
                 its guest RAM; of another process all of its memory.",
            ),
            (
                "pid:N,map=GLOB",
                "Its mappings whose name in /proc/N/maps matches the shell pattern; 'anon' for \
                 those without a name.",
            ),
            ("pid:N,range=A-B", "Its memory between two hexadecimal addresses."),
            ("pid:N,all", "All of its memory, of a VMM too."),
            (
                "comm:GLOB",
                "Every process whose command name (/proc/PID/comm, at most 15 bytes) matches. A \
                 NAME becomes NAME-PID where there are several.",
            ),
            (
                "cgroup:PATH",
                "Every process of a control group and of those below it, by its folder or as in \
                 /proc/PID/cgroup.",
            ),
            (
                "image:PATH",
                "A memory image in a file: the pages of it that the page cache has. Nothing is \
                 read from the disk and no hole is filled.",
            ),
            (
                "herd:DIR/VM, herd:DIR",
                "A VM of a herd directory, as mig-recv(1) leaves it, or all of them. Its memory is \
                 the pool's pages that its map names and the page cache has; pages that its map puts \
                 in a template are not counted.",
            ),
        ]),
        Part::Text(
            "Without a target: every VMM on this host, or where none runs its ten largest \
             processes. A process may be given twice only if the parts do not overlap.",
        ),
    ],
};

/// memscan itself.
pub(crate) const MEMSCAN: Page = Page {
    about: "Show which memory virtual machines share: with whom, through what, why not, and what \
a move would cost.\n\n\
memscan reads the kernel's own tables (pagemap, kpagecount, kpageflags) and changes nothing: no page \
is brought in, no flag is set, KSM is not touched. Every page is 4 KiB. Two pages are shared if one \
page frame stands behind both; what is shared is told apart by mechanism: ksm, fork, file, shmem and \
zero (see 'memscan summary --help').\n\n\
It needs root: CAP_SYS_ADMIN for page frame numbers, which the kernel otherwise hides (that is an \
error, never 'nothing shared'), CAP_SYS_PTRACE to look into other processes, and the right to read \
/proc/kpagecount. Without a subcommand it shows the summary. Data goes to standard output, words to \
standard error.",
    sections: &[
        TARGETS,
        Section {
            title: "Environment",
            parts: &[Part::Terms(&[
                ("PAGEHERD_THREADS", "Threads to scan with, where --threads is not given."),
                ("NO_COLOR", "If it is set and not empty, --color=auto means never."),
            ])],
        },
        Section {
            title: "Files",
            parts: &[
                Part::Terms(&[
                    (
                        "/proc/PID/pagemap, /proc/PID/maps, /proc/PID/smaps",
                        "The frame behind each page; the mappings.",
                    ),
                    (
                        "/proc/kpagecount, /proc/kpageflags",
                        "How often each frame is mapped by anyone, and what it is.",
                    ),
                    ("/sys/kernel/mm/ksm", "KSM's settings and counters."),
                ]),
                Part::Text(
                    "A file that memscan writes appears whole or not at all. A new one is readable \
                     by its owner alone, for who shares memory is a secret; one that exists keeps \
                     its permissions. A device or a named pipe is written and never replaced.",
                ),
            ],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan", "Every VMM on this host."),
                ("memscan a=pid:4711 b=pid:4712", "Two VMs, by name."),
                (
                    "memscan matrix --svg m.svg comm:qemu-*",
                    "Who shares with whom, and a picture of it.",
                ),
                ("memscan what-if --leave a a=pid:4711 b=pid:4712", "What if a left."),
                ("memscan why a=pid:4711 b=pid:4712", "Why they do not share more."),
            ])],
        },
    ],
};

/// `memscan summary`.
pub(crate) const SUMMARY: Page = Page {
    about: "Show a row a VM: resident, unique and shared memory by mechanism; below the table, \
footprint, naive footprint and expansion.\n\n\
For each VM, resident = unique + shared + changed. The zero page is part of what is shared, and of no \
footprint.",
    sections: &[
        Section {
            title: "Words",
            parts: &[Part::Terms(&[
                ("resident", "Pages that the VM's page table has on a frame."),
                (
                    "unique",
                    "Frames that nothing else on the host maps: what leaves if the VM goes.",
                ),
                (
                    "shared",
                    "Pages on a frame that something else maps too, in the scan or outside it, or \
                     that the VM itself maps twice. By mechanism:",
                ),
                ("  ksm", "Merged by the kernel for equal content."),
                (
                    "  fork",
                    "Anonymous memory that parent and child have had in common since a fork.",
                ),
                (
                    "  file",
                    "A page of a file that is mapped privately and was not written since: a \
                     template, or a program in the page cache. The files are named below the table.",
                ),
                (
                    "  shmem",
                    "A page of a file, a memfd or anonymous memory that all who map it map shared.",
                ),
                ("  zero", "The kernel's one page of zeros, small or huge."),
                (
                    "PSS",
                    "Proportional set size: each frame divided by the number of all that map it.",
                ),
                (
                    "outside",
                    "Of the shared pages, those on frames that processes outside the scan map too; \
                     known from the kernel's own count of mappings.",
                ),
                ("swapped", "Pages on a swap device. They are not resident, and not absent."),
                (
                    "huge",
                    "Resident pages that are mapped by huge entries (transparent or hugetlb).",
                ),
                (
                    "unmapped",
                    "In a memfd or tmpfs file that the VM maps shared, but not in its page table.",
                ),
                (
                    "changed",
                    "Pages whose entry changed or vanished between two looks. They are neither \
                     unique nor shared, and count one frame each in the footprint.",
                ),
                (
                    "error bound",
                    "With 95 % confidence, no more pages than this have changed unseen. With \
                     --verify=full every shared page is read twice.",
                ),
                (
                    "footprint",
                    "Distinct page frames behind all VMs of the scan together, without the zero page.",
                ),
                (
                    "naive footprint",
                    "What the footprint becomes where sharing is lost: every resident page on a \
                     frame of its own, pages of the zero page left out.",
                ),
                ("expansion", "Naive footprint divided by footprint; 1 where nothing is shared."),
            ])],
        },
        Section {
            title: "JSON",
            parts: &[Part::Text(
                "One object: vms, a list with name, pid, what, state, resident_pages, pss_bytes, \
                 unique_pages, shared_pages, by (ksm, fork, file, shmem, zero), outside_pages, \
                 swapped_pages, huge_pages, unmapped_pages, changed_pages, verify (reread, stable, \
                 changed, vanished), error_bound_pages and files; then footprint_pages, \
                 naive_pages, expansion, verified and passes. Counts are of 4 KiB pages.",
            )],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan summary a=pid:4711 b=pid:4712", "Two VMs."),
                ("memscan summary -o +OUTSIDE,CHANGED comm:qemu-*", "Two more columns."),
                (
                    "memscan summary --json | jq .footprint_pages",
                    "The footprint of all VMMs, in pages.",
                ),
            ])],
        },
    ],
};

/// `memscan matrix`.
pub(crate) const MATRIX: Page = Page {
    about: "Show the memory shared by each pair of VMs, and with --groups by each set of them.",
    sections: &[
        Section {
            title: "Words",
            parts: &[
                Part::Terms(&[
                    (
                        "off the diagonal",
                        "Distinct frames that both VMs map, the kernel's zero page left out. A \
                         frame that three VMs map is counted in each of the three pairs.",
                    ),
                    (
                        "on the diagonal",
                        "The VM's resident pages; with --by, and in JSON under 'by', its pages that \
                         are shared through that mechanism with anyone.",
                    ),
                    (
                        "groups",
                        "Sets of two and more VMs, and the frames that exactly these have in \
                         common: every frame is in one set. 'and others' marks frames that \
                         processes outside the scan map too.",
                    ),
                ]),
                Part::Text("The mechanisms are those of memscan-summary(1)."),
            ],
        },
        Section {
            title: "JSON",
            parts: &[Part::Text(
                "One object: names, a list; pages, a list of rows in that order; by, such rows for \
                 each of ksm, fork, file, shmem and zero; with --groups also groups, a list with \
                 vms, outside, pages and by.",
            )],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan matrix --groups a=pid:7 b=pid:8 c=pid:9", "Pairs, and sets."),
                ("memscan matrix --by ksm", "What KSM has merged between VMMs."),
                ("memscan matrix --svg - > matrix.svg", "A heat map instead of the table."),
            ])],
        },
    ],
};

/// `memscan what-if`.
pub(crate) const WHAT_IF: Page = Page {
    about: "Forecast what a move costs: by how much the destination grows, what the source gains, \
and how much there is to send; for the VMs of --leave together, and for each of them alone.\n\n\
Naive means that every page goes for itself, as every VMM sends it today. Kept means that a frame \
which several of the leaving VMs share goes once and stays shared. Nothing is moved.",
    sections: &[
        Section {
            title: "Words",
            parts: &[Part::Terms(&[
                (
                    "growth (destination)",
                    "Memory that the destination needs. Swapped pages become resident there; \
                     pages of the kernel's zero page need nothing.",
                ),
                (
                    "freed (source)",
                    "Frames that only leaving VMs map, and so the source gains. What they share \
                     with a VM that stays, or with a process outside the scan, is not among them.",
                ),
                (
                    "freed cache",
                    "Of these, pages of files and shared memory: page cache can be reclaimed at \
                     once, but pages of a tmpfs file stay until the file is removed.",
                ),
                ("freed swap", "Swap space that the source gains."),
                ("send", "Pages to send: each for itself, or each distinct frame once."),
                (
                    "template",
                    "With --template, frames of that file: they are neither sent nor cost memory \
                     where sharing is kept, since the destination has them.",
                ),
            ])],
        },
        Section {
            title: "JSON",
            parts: &[Part::Text(
                "One object for the set: leaving (names), destination_pages (naive, kept), \
                 source_freed_pages, source_freed_cache_pages, source_freed_swap_pages, send_pages \
                 (naive, kept), template_pages; and alone, a list of such objects, one for each VM \
                 that leaves.",
            )],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                (
                    "memscan what-if --leave a --leave b a=pid:7 b=pid:8 c=pid:9",
                    "What if a and b left together, and c stayed.",
                ),
                (
                    "memscan what-if --template base.img a=pid:7 b=pid:8",
                    "The same for each, where the destination has the template.",
                ),
            ])],
        },
    ],
};

/// `memscan why`.
pub(crate) const WHY: Page = Page {
    about: "Say why pages with equal content are not shared, by cause and region, and what to \
change; for a VM that shares nothing, what keeps it from it.\n\n\
The content of at most about --read of memory is read; of more, one page in so many, evenly spread, \
and every count of equal pages is then a lower bound. Only pages that are present are read, and equal \
ones are compared byte by byte. The two known cases that cost VMMs memory unseen are named: guest RAM \
on a shared memfd or file, where KSM merges nothing, and memory that is there twice since a memfd is \
mapped privately.",
    sections: &[
        Section {
            title: "Causes",
            parts: &[Part::Terms(&[
                ("hugetlb", "Pages of hugetlb are never merged."),
                (
                    "mapped-shared",
                    "Mapped MAP_SHARED, such as a memfd: KSM merges private anonymous memory only.",
                ),
                ("file-page", "A page of a file, not written since it was mapped."),
                ("not-mergeable", "Nobody declared the memory MERGEABLE."),
                ("volatile", "The content changed while it was looked at."),
                ("ksm-absent", "The kernel has no KSM (CONFIG_KSM)."),
                ("ksm-off", "The memory is mergeable, but KSM does not run."),
                ("zeros", "Pages of zeros, which KSM merges like any other content."),
                (
                    "other-node",
                    "Equal pages on different NUMA nodes, which KSM was told not to merge across.",
                ),
                (
                    "max-page-sharing",
                    "Merged already; max_page_sharing makes further frames necessary.",
                ),
                ("huge-page", "Part of a transparent huge page, which KSM has to split first."),
                ("still-scanning", "KSM runs and has not come round to it."),
            ])],
        },
        Section {
            title: "Words",
            parts: &[Part::Terms(&[
                ("equal, not shared", "Frames that sharing equal content could save."),
                ("contents", "How many distinct contents these have."),
                ("there twice", "Private copies above pages that are also still in a memory file."),
            ])],
        },
        Section {
            title: "JSON",
            parts: &[Part::Text(
                "One object: vms (name, shared_pages, verdict where nothing is shared, regions with \
                 name, mappings, pages, resident_pages, huge_pages, mergeable and blockers), causes \
                 (cause, pages, meaning, advice, regions), equal_pages, contents, present_pages, \
                 read_pages, unreadable_pages, one_in, and double (vm, file, pages, advice).",
            )],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan why a=pid:7 b=pid:8", "Why they do not share more."),
                ("memscan why --read 64G", "All VMMs, and more of their memory read."),
            ])],
        },
    ],
};

/// `memscan ksm`.
pub(crate) const KSM: Page = Page {
    about: "Show KSM's state, settings, progress and profit, and what each process has of it.\n\n\
No page table is read, so no capability is needed for the state itself. Without a target every process \
is listed that has merged or mergeable memory.",
    sections: &[
        Section {
            title: "Words",
            parts: &[Part::Terms(&[
                (
                    "merged",
                    "Frames that KSM made (pages_shared), and the mappings of them: pages_shared + \
                     pages_sharing, since pages_sharing counts the further mappings only.",
                ),
                ("saved", "pages_sharing, and zero pages that KSM put in place."),
                (
                    "not merged",
                    "Pages that were unique so far, that change too fast, and that the smart scan \
                     passed over.",
                ),
                (
                    "profit",
                    "What is saved less the memory that the scanner's own records take; it can be \
                     negative.",
                ),
                (
                    "full passes",
                    "How often all mergeable memory was scanned. Nothing merges before the second.",
                ),
            ])],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan ksm", "Does it run, and does it pay?"),
                ("memscan ksm --json comm:qemu-*", "For all QEMUs, as JSON."),
            ])],
        },
    ],
};

/// `memscan map`.
pub(crate) const MAP: Page = Page {
    about: "Tell each page's facts, for a pipe: a line for consecutive pages that are alike.",
    sections: &[
        Section {
            title: "Columns",
            parts: &[Part::Terms(&[
                ("VM", "Name of the VM."),
                ("ADDRESS", "Host-virtual address of the first page."),
                ("PAGES", "How many pages of 4 KiB."),
                (
                    "STATE",
                    "unique; ksm, fork, file, shmem or zero where they are shared through that; \
                     swapped; changed; with --absent also absent. As in memscan-summary(1).",
                ),
                ("KIND", "file (a file or shared memory) or anon."),
                ("PFN", "Frame of the first page; the others follow it. - where there is none."),
                (
                    "SHARERS",
                    "The VMs that map the frames, with commas; + for processes outside the scan.",
                ),
                ("BLOCK", "Name of the mapping in /proc/PID/maps."),
                ("PAGE", "Number of the first page within the block."),
            ])],
        },
        Section {
            title: "Formats",
            parts: &[Part::Terms(&[
                ("tsv", "These columns with tabs between."),
                (
                    "jsonl",
                    "An object a line: vm, block, address, page, pages, state, kind, pfn, sharers, \
                     outside.",
                ),
                (
                    "placement",
                    "The placement map, which other commands read: for each page its place. \
                     Binary, and not written to a terminal.",
                ),
            ])],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan map a=pid:7 | head", "The first lines."),
                (
                    "memscan map -n a=pid:7 b=pid:8 | awk -F'\\t' '$4==\"ksm\" {n+=$3} END {print n}'",
                    "Pages that KSM has merged.",
                ),
                ("memscan map --format placement -o vm.map a=pid:7", "The placement map."),
            ])],
        },
    ],
};

/// `memscan record`.
pub(crate) const RECORD: Page = Page {
    about: "Record a scan in a file, to compare it later with 'memscan diff'.\n\n\
The record is text, a line for consecutive pages that are alike, with a checksum at its end. It tells \
who shares memory with whom: it is written readable by its owner alone.",
    sections: &[Section {
        title: "Examples",
        parts: &[Part::Examples(&[
            ("memscan record -o before.scan a=pid:7 b=pid:8", "Now."),
            (
                "memscan record -o after.scan a=pid:7 b=pid:8; memscan diff before.scan after.scan",
                "Later: what has become of the sharing.",
            ),
        ])],
    }],
};

/// `memscan diff`.
pub(crate) const DIFF: Page = Page {
    about: "Compare two records: which sharing was lost or won, by mechanism and by pair, and so why \
the footprint grew.\n\n\
VMs correspond by name. While a process lives its pages correspond by address; after a move or a \
restart blocks correspond by name and order.",
    sections: &[
        Section {
            title: "Words",
            parts: &[Part::Terms(&[
                ("A -> B (+C)", "Before, after, and the difference."),
                (
                    "what became of pages",
                    "Pages that were in one state and are in another (the states of \
                     memscan-map(1)), most first, with what that means.",
                ),
                ("shared by pairs", "Frames that two VMs have in common, where that has changed."),
                ("only before, only after", "VMs that one record alone has."),
            ])],
        },
        Section {
            title: "JSON",
            parts: &[Part::Text(
                "One object: seconds, footprint_pages, vms (name, resident_pages, unique_pages, by, \
                 swapped_pages), transitions (vm, before, after, pages, meaning), pairs (vms, by, \
                 pages), only_before, only_after. A pair of counts is a list of two: before, after.",
            )],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan diff before.scan after.scan", "What happened between the two."),
                (
                    "memscan record -o - a=pid:7 | memscan diff before.scan -",
                    "What has happened since.",
                ),
            ])],
        },
    ],
};

/// `memscan watch`.
pub(crate) const WATCH: Page = Page {
    about: "Watch sharing over time: a live view on a terminal, and the time series when it ends, \
after --count scans or at SIGINT (^C) or SIGTERM.",
    sections: &[
        Section {
            title: "Formats",
            parts: &[
                Part::Text(
                    "The series is a table, a line a scan, with the columns of --list-columns: \
                     footprint, naive footprint, expansion, unique memory and shared memory by \
                     mechanism, summed over all VMs. See memscan-summary(1) for the words. With \
                     --json there is no table: each scan is one line as of 'memscan summary \
                     --json', with seconds since the first.",
                ),
                Part::Text(
                    "--prometheus keeps a file up to date for the textfile collector of the node \
                     exporter; a new one is readable by all. Its metrics are gauges in bytes: \
                     pageherd_vm_resident_bytes, _vm_unique_bytes, _vm_swapped_bytes and \
                     _vm_changed_bytes by vm, pageherd_vm_shared_bytes by vm and mechanism, \
                     pageherd_footprint_bytes and pageherd_naive_footprint_bytes.",
                ),
            ],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                ("memscan watch --interval 10 a=pid:7 b=pid:8", "A live view, until ^C."),
                (
                    "memscan watch --count 60 --svg series.svg",
                    "Two minutes of all VMMs, as a picture.",
                ),
                (
                    "memscan watch --interval 30 --prometheus /var/lib/node_exporter/memscan.prom",
                    "For a textfile collector.",
                ),
            ])],
        },
    ],
};

/// Every subcommand's page, by name.
pub(crate) const PAGES: [(&str, Page); 9] = [
    ("summary", SUMMARY),
    ("matrix", MATRIX),
    ("what-if", WHAT_IF),
    ("why", WHY),
    ("ksm", KSM),
    ("map", MAP),
    ("record", RECORD),
    ("diff", DIFF),
    ("watch", WATCH),
];
