//! The long texts of mig-send: what `--help` and the manual say beyond the flags.

use pageherd::cli::filters;
use pageherd::cli::page::{Page, Part, Section};

/// The command lines there are.
pub(crate) const USAGE: [&str; 4] = [
    "mig-send --vm [NAME=]TARGET… [--to ADDRESS] [OPTIONS]",
    "mig-send --qemu [--vm NAME] [--group NAME] [--to ADDRESS] [OPTIONS]",
    "mig-send --group NAME --end-group",
    "mig-send --resolve SESSION --to ADDRESS [OPTIONS]",
];

/// Below `-h`.
pub(crate) const SHORT: &str = "A TARGET is [NAME=]pid:N, comm:GLOB, cgroup:PATH, image:PATH or \
herd:DIR/VM. Processes stand still while they are read, and run on afterwards. With --qemu QEMU's own \
migration stream is sent: see pageherd-qemu(7). 'mig-send --help' tells more.";

const TARGETS: Section = Section {
    title: "Targets",
    parts: &[
        Part::Text(
            "What --vm and --refer name, as in memscan(1). NAME is what the VM is called at the far \
             end: 1 to 64 letters, digits, dots, dashes and underscores, no dot in front.",
        ),
        Part::Terms(&[
            (
                "pid:N, pid:N,map=GLOB, pid:N,range=A-B, pid:N,all",
                "A process. Of a VMM that is known its guest RAM, of another all of its memory, or \
                 the part that is named. Mappings of devices and of the kernel's own data are left \
                 out, and named. Registers and devices are not sent: what arrives is memory.",
            ),
            ("comm:GLOB, cgroup:PATH", "Processes by name or control group; a VM each."),
            ("image:PATH", "A memory image. Its holes are known and not read."),
            (
                "herd:DIR/VM, herd:DIR",
                "A VM of a herd directory, as mig-recv --into leaves it, or all of them.",
            ),
        ]),
    ],
};

const ADDRESSES: Section = Section {
    title: "Addresses",
    parts: &[
        Part::Terms(&[
            (
                "-",
                "Standard output: a pipe to mig-recv. Never a terminal. One way, unless it is a socket.",
            ),
            (
                "exec:CMD",
                "A command line for the shell, by its standard input and output. Two ways: \
                 'exec:ssh host mig-recv --into DIR' is the way to another host that needs no port, \
                 no certificate and no server, and yet hears what became of the memory.",
            ),
            (
                "unix:PATH",
                "A socket at which mig-recv --from unix:PATH listens; for its owner alone. Two ways.",
            ),
            (
                "tcp:HOST:PORT",
                "In clear text, so to this host alone, unless --insecure says that the network is \
                 trusted. Two ways.",
            ),
            (
                "tls:HOST:PORT",
                "Encrypted, and both ends prove by certificates who they are: --tls-cert, --tls-key \
                 and --tls-ca at both. Two ways.",
            ),
            ("fd:N", "A descriptor that the command was started with, as fd:3 with 3>FILE."),
            (
                "file:PATH",
                "A file that appears whole or not at all, a named pipe or a device. With ,offset=N \
                 it is written in place, from byte N on. One way.",
            ),
        ]),
        Part::Text(
            "A medium with two ways is worth it: the receiver refuses before the first page is sent \
             (a template that it does not have, a VM that it has already, too much memory), and says \
             at the end that it has everything. On one way, mig-send knows only that the bytes have \
             left; what mig-recv says and its exit status are then all there is. In a shell: 'set -o \
             pipefail'.",
        ),
    ],
};

const FILTERS: Section = Section {
    title: "The filters",
    parts: &[
        Part::Text(
            "A filter finds a cheaper place for pages than their bytes. --filters LIST takes them in \
             this order; each has a page of its own in the manual: pageherd-shared(7) and so on.",
        ),
        Part::Terms(&filters::LINES),
        Part::Text(
            "Without --filters, or with auto, the list is unused, zero, template, shared, xor, lz4 \
             and zstd. That shares at the far end what is shared here, and no more. 'none' sends \
             every page as its bytes. What needs no content comes before what does, and what packs \
             bytes comes last. With --qemu the list is zero, template, same, lz4 and zstd: a stream \
             shows content alone.",
        ),
    ],
};

const BILL: Section = Section {
    title: "The bill",
    parts: &[
        Part::Text(
            "What each filter did, on standard error when all is sent; none with --quiet. With \
             --json it is a JSON object instead, on standard output unless the stream goes there.",
        ),
        Part::Terms(&[
            ("FILTER", "Its name."),
            ("PAGES", "Pages that it settled, or packed."),
            ("SAVED", "Bytes that did not have to be sent because of it."),
            ("SECONDS", "Time that it took, as if by one thread."),
            (
                "NOTE",
                "For how many pages it was off, because it would have lost more time than it saved.",
            ),
            (
                "last line",
                "Memory of all VMs; bytes of the stream; the time from its first byte to the last \
                 answer; the session, by which --resolve asks; 'committed' if the receiver said so.",
            ),
        ]),
        Part::Text(
            "JSON: session, confirmed (the receiver has said that it has it), moved (--move was \
             given), vms (name, pages, digest), memory_bytes, stream_bytes, seconds, and filters, a \
             list with filter, looked_at, pages, saved_bytes, nanos and off_pages. The digest is one \
             of the memory and not of the stream: the same memory has the same digest at each hop, \
             and mig-recv prints it too.",
        ),
    ],
};

const STILL: Section = Section {
    title: "Standing still",
    parts: &[
        Part::Text(
            "Memory that changes while it is read would arrive as it never was. So a process is held \
             while it is read, and runs on when all is done, whether well or not, also if mig-send is \
             killed: another process of its own sees to that. That it stood still all the time is \
             checked before the stream is sealed. --freeze says how:",
        ),
        Part::Terms(&[
            (
                "auto",
                "The first of the following that works. A process that is stopped already stays so.",
            ),
            (
                "qmp, qmp:SOCKET",
                "QEMU's own 'stop', by the QMP socket that its command line tells of, or by this \
                 one. The guest pauses and QEMU brings to an end what its devices were writing; QEMU \
                 itself runs. It does not stop what else QEMU's memory is used for: it is meant for \
                 guest RAM, not for pid:N,all.",
            ),
            (
                "cgroup",
                "The freezer of a control group in which the process is alone. All of its threads \
                 stop. What the kernel does on its behalf does not: reads from disks that are under \
                 way, vhost before Linux 6.4.",
            ),
            (
                "stop",
                "SIGSTOP. The same; and its parent sees it stop, and whoever sends SIGCONT lets it \
                 run, which is noticed and ends the transfer.",
            ),
            ("none", "You see to it. Nothing is checked but the digests."),
        ]),
        Part::Text(
            "No way stops others who write to memory that the process shares with them: another \
             process that maps the same memfd, a vhost-user backend, a device that was given to the \
             guest. Name all processes that share memory in one command, or stop the others yourself.",
        ),
    ],
};

const MOVING: Section = Section {
    title: "Copying and moving",
    parts: &[
        Part::Text(
            "Without --move a stream is a copy: the source runs on. With --move the memory has one \
             owner at every moment, and changes hands once. In order:",
        ),
        Part::Terms(&[
            ("1. agreed", "The receiver has what it takes, or refuses before a page is sent."),
            (
                "2. sealed",
                "All pages have gone. The receiver has compared the digest of each memory, and has \
                 written it out; nobody sees it yet.",
            ),
            (
                "3. commit",
                "mig-send gives the memory up, and says so. The receiver writes one line to its \
                 journal: now it is its own, and visible.",
            ),
            ("4. committed", "The receiver says so. The source stays paused, for good: end it."),
        ]),
        Part::Text(
            "Whatever fails before step 3 leaves the source as it was, and running. If the \
             connection is lost between 3 and 4, nobody here can know whether the receiver has the \
             memory. mig-send then says so, ends with 75, and leaves the source paused: let it run \
             and there may be two, end it and there may be none. Once the receiver can be reached, \
             ask it: mig-send --resolve SESSION --to ADDRESS, with mig-recv --into the same DIR at \
             the other end. It answers 'committed' (end the source) or 'aborted' (free it, as the \
             message says); and what it calls aborted will never be committed from then on.",
        ),
        Part::Text(
            "On a one-way medium nobody can answer, so --move is refused there. --one-way says that \
             you will see to it: the source then stays paused when the last byte has left, though \
             nobody says that it arrived. What is lost: the refusal before the first page; that the \
             source runs on by itself if the receiver fails; --resolve.",
        ),
    ],
};

const SEVERAL: Section = Section {
    title: "Several senders, one herd",
    parts: &[Part::Text(
        "Several commands can fill one herd at once: mig-recv --streams N takes as many. With \
         --refer TARGET a sender names a VM that another one sends, and only points to pages that it \
         shares with it; the receiver waits for those that have not come yet (its --wait). Both name \
         each VM alike and with the same parts. A page that never comes is an error that names it, \
         and the VM that refers to it does not arrive.",
    )],
};

const QEMU: Section = Section {
    title: "QEMU's own stream",
    parts: &[
        Part::Text(
            "With --qemu a whole guest moves, with its devices, from one QEMU to another that waits for \
             it, and runs while it is sent: QEMU starts mig-send by its 'migrate \"exec:mig-send --qemu \
             …\"', or writes into a pipe that is mig-send's standard input (fd:). Pages go through the \
             filters; all else passes byte for byte. pageherd-qemu(7) leads from two QEMUs to a script.",
        ),
        Part::Terms(&[
            (
                "--vm NAME",
                "What the guest is called; 'vm' where nothing is said. mig-recv --qemu --vm NAME takes \
                 no other.",
            ),
            (
                "--group NAME",
                "Moves that name one group send what they share once, at the same time or one after \
                 another. It is a directory, /dev/shm/pageherd-UID/NAME, or the one that is named with \
                 a '/'; it holds digests, and at the receiver pages. Only guests that trust each other \
                 belong into one: see pageherd-same(7).",
            ),
            (
                "--group NAME --end-group",
                "Nothing is sent. What the group has left at this end is removed, if no move is under \
                 way; mig-recv does that at the other.",
            ),
            (
                "--template FILE",
                "As ever. If the QEMU that waits has the file mapped privately, pages that equal it \
                 stay shared with it there.",
            ),
        ]),
        Part::Text(
            "QEMU's 'completed' means that the receiver has the guest and that the QEMU there has \
             accepted its devices; 'failed' that the guest runs on here. Where neither can be had \
             (the stream comes from a file, or from a socket without the capability return-path; the \
             machine has suppress-vmdesc), mig-send says so, and its exit status is the answer. The \
             bill goes to standard error, with --json too. --move, --live, --refer, --trust and \
             --resolve are not for such a stream: QEMU does these things itself.",
        ),
    ],
};

const SAFETY: Section = Section {
    title: "Safety",
    parts: &[
        Part::Text(
            "By itself a stream is protected against faults: every record has a checksum, every \
             memory a digest, and what is cut, swapped or damaged is refused. Against somebody who \
             changes it on purpose, give both ends the same secret with --key FILE (at least 16 \
             bytes, as of 'head -c 32 /dev/urandom'), or use ssh or tls:. A key does not hide the \
             content: only ssh and tls: do.",
        ),
        Part::Text(
            "By default only what was shared here is shared there: what one guest can find out about \
             another by timing, it could before. The filter 'same' and a template share by content \
             and have to be asked for: see pageherd-same(7).",
        ),
        Part::Text(
            "Memory: some 20 MiB of buffers; for each page of a template, for each frame that others \
             map too, and with 'same' for each page that was sent, an entry in a table.",
        ),
    ],
};

/// mig-send.
pub(crate) const MIG_SEND: Page = Page {
    about: "Send the memory of virtual machines, and nothing that the far end has.\n\n\
mig-send reads processes, images and herd directories, and writes one stream to mig-recv(1): through a \
pipe, ssh, a socket, TLS or a file. Pages that the far end can have cheaper are named instead of sent: \
those that nobody used, zeros, pages of a template, pages that are on the same frame as one that was \
sent. So VMs that share memory here go once, and share it there.\n\n\
Processes stand still while they are read. Of a VMM only memory is sent: no registers, no devices. To \
read processes it needs root: CAP_SYS_PTRACE, CAP_SYS_ADMIN for frame numbers, CAP_KILL to hold those \
of others. Images and herds need the right to read them.\n\n\
With --qemu it stands behind an unmodified QEMU that migrates a guest, and sends QEMU's own stream, \
memory and devices, to mig-recv --qemu before the QEMU that waits. That needs no privilege.",
    sections: &[
        TARGETS,
        ADDRESSES,
        FILTERS,
        BILL,
        STILL,
        MOVING,
        QEMU,
        SEVERAL,
        SAFETY,
        Section {
            title: "Environment",
            parts: &[Part::Terms(&[(
                "PAGEHERD_THREADS",
                "Threads that pack, where --threads is not given.",
            )])],
        },
        Section {
            title: "Examples",
            parts: &[Part::Examples(&[
                (
                    "mig-send --vm a=pid:4711 --vm b=pid:4712 --vm c=image:c.img | mig-recv --into /dev/shm/herd",
                    "Three memories into a herd on this host.",
                ),
                (
                    "mig-send --vm a=pid:4711 --move --to 'exec:ssh host mig-recv --into /dev/shm/herd'",
                    "Move one to another host: it stays paused here if, and only if, it has arrived.",
                ),
                (
                    "mig-send --vm a=pid:4711 --rate 1Gbit --filters unused,zero,shared,zstd=3 --to 'exec:ssh -C host mig-recv --into DIR'",
                    "Slowly, so that others have some of the network too.",
                ),
                (
                    "mig-recv --from unix:/run/herd.sock --into DIR &\nmig-send --vm a=pid:4711 --to unix:/run/herd.sock --filters zero,shared,zstd --json",
                    "By a socket, and the bill as JSON.",
                ),
                (
                    "mig-send --vm a=pid:4711 --tls-cert me.pem --tls-key me.key --tls-ca ca.pem --to tls:host:7000",
                    "By TLS, to mig-recv --from tls:0.0.0.0:7000 with its own three files.",
                ),
                (
                    "mig-send --vm a=pid:4711 --to file:a.herd\nmig-recv --explain a.herd\nmig-recv --from file:a.herd --into DIR",
                    "Into a file, which appears when it is whole; what is in it; and out of it, later.",
                ),
                (
                    "mig-send --vm a=herd:DIR/a | mig-recv --image a=a.img",
                    "A VM of a herd as an image.",
                ),
                (
                    "mig-send --vm a=pid:4711 --refer b=pid:4712 --to unix:S &\nmig-send --vm b=pid:4712 --refer a=pid:4711 --to unix:S",
                    "Two at once, into mig-recv --from unix:S --streams 2.",
                ),
                (
                    "migrate \"exec:mig-send --qemu --vm web1 --to 'exec:ssh -W 127.0.0.1:7000 host'\"",
                    "In QEMU's monitor: a guest as it runs, to a QEMU on another host that was started \
                     with -incoming \"exec:mig-recv --qemu --vm web1 --from tcp:127.0.0.1:7000\".",
                ),
                ("mig-send --group rack1 --end-group", "All guests of the group have arrived."),
                (
                    "mig-send --resolve 0123456789abcdef0123456789abcdef --to 'exec:ssh host mig-recv --into /dev/shm/herd'",
                    "Has it arrived?",
                ),
            ])],
        },
    ],
};
