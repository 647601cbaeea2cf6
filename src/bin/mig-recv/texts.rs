//! The long texts of mig-recv: what `--help` and the manual say beyond the flags.

use pageherd::cli::page::{Page, Part, Section};

/// The command lines there are.
pub(crate) const USAGE: [&str; 6] = [
    "mig-recv [--from ADDRESS]… --into DIR [OPTIONS]",
    "mig-recv [--from ADDRESS]… --image NAME=FILE… [OPTIONS]",
    "mig-recv --qemu [--vm NAME] [--group NAME] [--from ADDRESS] [OPTIONS]",
    "mig-recv [--from ADDRESS] --discard [OPTIONS]",
    "mig-recv --explain FILE",
    "mig-recv --group NAME --end-group",
];

/// Below `-h`.
pub(crate) const SHORT: &str = "What arrives is visible when it is complete and proven, and not \
before. A VM of a herd is herd:DIR/NAME to mig-send and memscan. With --qemu it goes to a QEMU that \
waits: see pageherd-qemu(7). 'mig-recv --help' tells more.";

const STORES: Section = Section {
    title: "Where it goes",
    parts: &[Part::Terms(&[
        (
            "--into DIR",
            "A herd directory: a file 'pool', in which each distinct page stands once; of each VM a \
             placement map, NAME.map; a journal. On a tmpfs, as /dev/shm, the pool is memory, and \
             takes as much of it as the VMs shared at the source. Further streams add to a herd: a \
             page is kept once for each stream that brings it. It is crash-safe: a VM is there whole \
             or not at all, and what an interrupted mig-recv left is brought to its end by the next. \
             One mig-recv writes to a herd at a time; it takes several streams by --streams. A VM \
             is not replaced: send it under another name. To take one out, remove its map; the next \
             mig-recv gives the space back.",
        ),
        (
            "--image NAME=FILE",
            "A flat sparse image of one VM: page n at byte n times 4096, through all its blocks. \
             Zeros are holes. Where the file system has reflinks (Btrfs, XFS), pages that are the \
             same share their blocks. A file that exists is replaced only with --force. Several \
             images of one stream get their names one after another: who needs all or none uses a \
             herd.",
        ),
        (
            "--qemu",
            "A QEMU that waits for it on standard output gets the guest: see QEMU below. Only for \
             streams of mig-send --qemu; of these, --into DIR keeps the memory, and all else of QEMU's \
             stream beside it.",
        ),
        (
            "--discard",
            "Nothing is kept. The exit status says whether the stream is whole and its digests fit.",
        ),
        (
            "--explain FILE",
            "Nothing is kept. Each record of the stream in FILE is printed, with what it means.",
        ),
    ])],
};

const ADDRESSES: Section = Section {
    title: "Addresses",
    parts: &[
        Part::Terms(&[
            (
                "-",
                "Standard input. Answers go to standard output, so that mig-recv can stand at the \
                 far end of 'exec:ssh host mig-recv'. With --json standard output is for that, so \
                 that a sender who waits for answers is refused.",
            ),
            ("exec:CMD", "A command line for the shell, by its standard input and output."),
            ("unix:PATH", "Listens on a socket there, for its owner alone."),
            (
                "tcp:HOST:PORT",
                "Listens, in clear text, so on an address of this host alone (tcp:127.0.0.1:7000), \
                 unless --insecure says that the network is trusted. Port 0 is any that is free; it \
                 is printed.",
            ),
            (
                "tls:HOST:PORT",
                "Listens, encrypted: --tls-cert, --tls-key, --tls-ca. A sender without a certificate \
                 of that authority is turned away, and the next one is waited for.",
            ),
            ("fd:N", "A descriptor that the command was started with, as fd:3 with 3<FILE."),
            (
                "file:PATH",
                "A file, a named pipe or a device. With ,offset=N from byte N on; what follows the \
                 stream there is then left alone.",
            ),
        ]),
        Part::Text(
            "--from may be given several times, with --streams for as many in all. A stream whose \
             sender waits for answers needs a medium with two ways.",
        ),
    ],
};

const STREAMS: Section = Section {
    title: "Several streams",
    parts: &[Part::Text(
        "--streams N takes N streams into one herd, at once if they come at once. A page may be \
         referred to before it has come by another stream (mig-send --refer): at most 1,048,576 \
         references wait, for at most --wait seconds once their own stream is complete. What never \
         comes is an error that names the page. A stream that fails takes its own VMs with it, those \
         that refer to them, and no others; the exit status is that of the first failure.",
    )],
};

const QEMU: Section = Section {
    title: "QEMU",
    parts: &[
        Part::Text(
            "With --qemu standard output is a QEMU that waits for a guest: it starts mig-recv by \
             -incoming \"exec:mig-recv --qemu …\", or reads a pipe (-incoming fd:N). QEMU's stream is \
             written again for it, byte for byte but for pages that need not be told. What starts the \
             guest is held back until the sender has given it up; and that is not agreed to before \
             QEMU has accepted memory and devices. pageherd-qemu(7) leads from two QEMUs to a script.",
        ),
        Part::Terms(&[
            ("--vm NAME", "The guest that is waited for; another is refused. Without it, any."),
            (
                "--group NAME",
                "The group of which the sender speaks: pages that came for one guest are here for the \
                 others. They are files in /dev/shm/pageherd-UID/NAME, or in the directory that is \
                 named with a '/'; UID is the user that --user names, if it is given.",
            ),
            (
                "--pool-max SIZE",
                "Most memory for pages that may be named again: of all members of the group, or of \
                 this stream alone, which keeps them until its end. A stream that wants more is refused.",
            ),
            (
                "--group NAME --end-group",
                "Nothing is received. The group's pages are removed, if no stream is under way; nothing \
                 else removes them.",
            ),
            (
                "--template FILE",
                "Where QEMU's memory is a private mapping of FILE (memory-backend-file,share=off), pages \
                 that equal it are not written, and stay shared. To see that, mig-recv looks at QEMU's \
                 page table when it starts, which takes root or QEMU's own user.",
            ),
        ]),
    ],
};

const TRANSACTION: Section = Section {
    title: "When it is here",
    parts: &[
        Part::Text(
            "mig-recv makes nothing visible before the stream is complete, its seal and the digest \
             of every memory fit, and all is written out to the disk, if it is one; and, where the \
             sender waits for answers, before that has given the memory up. The commit is one line in the herd's \
             journal. Then it prints a line for each VM: name, size, digest. On whatever is wrong \
             before, nothing of the stream remains, and the sender is told why if it can hear.",
        ),
        Part::Text(
            "A sender that was cut off after it gave the memory up does not know what became of it. \
             It asks by mig-send --resolve SESSION, and a herd's journal answers; whoever is called \
             aborted by that will never be committed. Images and --discard keep no journal: a move \
             into them cannot be resolved.",
        ),
        Part::Text(
            "--verify reads all that is kept once more before it counts as arrived: against faults \
             of memory or disk here.",
        ),
    ],
};

const SAFETY: Section = Section {
    title: "What it guards against",
    parts: &[
        Part::Text(
            "A stream is read as if it came from an enemy: every number is checked against its limit \
             before memory is taken for it, nothing is used of a record whose checksum does not fit, \
             and no name in it is a path. It can bring --max-ram of memory at most, and only VMs \
             that have a place: a name that is in use, and with --image one that was not named, is \
             refused.",
        ),
        Part::Text(
            "When all is open (listeners, the herd or the folders of the images, templates, an \
             external filter) and before the first byte is read, mig-recv gives up what it does not \
             need: all capabilities, for itself and for whatever it might start; by Landlock all \
             files but the herd or the folders of the images, connections and signals; by seccomp \
             the system calls that a receiver has no use for. What this kernel cannot enforce is \
             said. --user NAME also makes it another user, who must own the herd directory (which \
             has to exist then) or be able to write to the images' folders. --no-sandbox leaves all \
             that out.",
        ),
        Part::Text(
            "--key FILE: only streams that were made with the same secret are taken. Without it \
             digests find faults, and no forger.",
        ),
        Part::Text(
            "Memory: some 10 MiB for each stream that is under way; 8 bytes for each distinct page \
             and for the places of pages as much as they have changes from one kind to another, at \
             most 16 bytes a page; 16 bytes for each page of a template. With --qemu, 8 bytes for each page of \
             the guest, and the pages that may be named again (--pool-max).",
        ),
    ],
};

/// mig-recv.
pub(crate) const MIG_RECV: Page = Page {
    about: "Receive streams of mig-send(1), and keep what they share.\n\n\
Into a herd directory, each distinct page goes once: VMs that shared memory where they came from take \
no more here. Into images, each VM becomes a flat sparse file. With --qemu, a guest goes on in an \
unmodified QEMU that waits for it. Every memory is proven by its digest \
before it is visible. A VM of a herd can be sent on, and looked at by memscan(1), as herd:DIR/NAME.\n\n\
It needs no privilege of its own but the right to write where it is told to.",
    sections: &[
        STORES,
        ADDRESSES,
        STREAMS,
        QEMU,
        TRANSACTION,
        SAFETY,
        Section {
            title: "JSON",
            parts: &[Part::Text(
                "With --json, one object (with --qemu on standard error): streams, a list with session, vms (name, pages, digest; state_bytes where NAME.qemu is beside it), \
                 stream_bytes and distinct_pages of each stream that arrived; or session and state \
                 (committed or aborted) of one that asked.",
            )],
        },
        Section {
            title: "Environment",
            parts: &[Part::Terms(&[(
                "PAGEHERD_THREADS",
                "Threads that unpack, where --threads is not given.",
            )])],
        },
        Section {
            title: "Files",
            parts: &[Part::Terms(&[
                ("DIR/pool", "Each distinct page once; slot n is at byte n times 4096."),
                ("DIR/NAME.map", "The placement map of VM NAME."),
                ("DIR/NAME.qemu", "Of a guest of QEMU: its stream without the pages."),
                ("DIR/journal", "Which sessions were committed, and which never will be."),
                ("DIR/lock", "Held by who writes."),
                ("/dev/shm/pageherd-UID/NAME/recv", "Pages of group NAME, until --end-group."),
            ])],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                (
                    "mig-send --vm a=pid:4711 --vm b=pid:4712 | mig-recv --into /dev/shm/herd",
                    "Two VMs into a herd in memory.",
                ),
                (
                    "mig-send --vm a=herd:/dev/shm/herd/a | mig-recv --image a=a.img",
                    "One of them as an image.",
                ),
                ("memscan a=herd:/dev/shm/herd/a b=herd:/dev/shm/herd/b", "What they share there."),
                (
                    "mig-recv --from unix:/run/herd.sock --into DIR --streams 2",
                    "What two senders bring, and then end.",
                ),
                (
                    "mig-recv --from tls:0.0.0.0:7000 --tls-cert me.pem --tls-key me.key --tls-ca ca.pem --into DIR",
                    "From another host, by TLS.",
                ),
                (
                    "mig-recv --from file:a.herd --discard --key secret",
                    "Is the stream in this file whole, and from somebody who has the key?",
                ),
                (
                    "qemu-system-x86_64 … -incoming \"exec:mig-recv --qemu --vm web1 --from unix:/run/web1.sock\"",
                    "A QEMU that waits for guest web1.",
                ),
                (
                    "mig-recv --group rack1 --end-group",
                    "All guests of the group have arrived: their pages are given back.",
                ),
                (
                    "install -d -o herd -m 700 /var/lib/herd && mig-recv --user herd --into /var/lib/herd",
                    "As a user who owns nothing else.",
                ),
            ])],
        },
    ],
};
