//! The filters of `mig-send --filters`, in words: a line each for `--help`, a manual page each
//! (section 7), from one table. A field of [`Words`] is a section of the page, so that no page can
//! do without one.

use super::manual::{parts, roff, section, see_also, title};
use super::page::{Part, Section};
use std::fmt::Write;

/// What there is to say of a filter.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Its name in `--filters` and in the bill.
    pub name: &'static str,
    /// How it is written in `--filters`.
    pub spelled: &'static str,
    /// What it is, in a line.
    pub line: &'static str,
    /// Which pages it finds.
    pub finds: &'static str,
    /// Why nothing wrong can come of it.
    pub proves: &'static str,
    /// What it costs at either end.
    pub costs: &'static str,
    /// When it turns itself off.
    pub off: &'static str,
    /// What the receiver needs, and what it makes of such pages.
    pub needs: &'static str,
    /// Whose idea it is.
    pub from: &'static str,
    /// Command lines, and what they do.
    pub examples: &'static [(&'static str, &'static str)],
    /// Sections that this filter alone has.
    pub more: &'static [Section],
}

/// What goes for all that are never turned off.
const NEVER: &str = "Never.";

/// What goes for all codecs.
const CODEC_OFF: &str = "While it runs, mig-send measures how fast the transport takes bytes, and \
for each codec of the list how fast it packs and how much it saves. Of these the one is used that \
moves a byte soonest, packing on all processors and sending side by side; none, where the bytes as \
they are go faster, as into a pipe of the same host. After each 64 MiB all are tried once more, since \
content and link change. The bill tells for how many pages a codec was off. With --keep-filters the \
first codec of the list packs everything, whatever it costs.";

/// All filters, in the order in which a list of all would name them.
pub const ALL: [Words; 9] = [
    Words {
        name: "unused",
        spelled: "unused",
        line: "Pages that nobody ever used, by the kernel's word.",
        finds: "Pages that are not present, not on a swap device, and have no file behind them: \
                nobody has touched them since they were mapped. In an image: its holes. In a herd: \
                what its map calls unused.",
        proves: "The page table, the image's file system (SEEK_DATA) or the herd's map says so. Not \
                 resident alone is not unused: a page that is swapped, or in a file and not mapped \
                 here, is read.",
        costs: "Nothing but looking at the page table, which is done anyway. The page is not read; \
                reading it would make the kernel give it a frame.",
        off: NEVER,
        needs: "Nothing. Such pages read as zeros there, take no memory in a herd and are holes in \
                an image; consecutive ones cost a few bytes of stream together.",
        from: "FCtrans (Tauchi and Kourai 2021), which leaves unused memory out of a move. Memory \
               that a guest has used and freed is not found by this filter.",
        examples: &[(
            "mig-send --vm a=pid:4711 --filters unused,zero | mig-recv --into /dev/shm/herd",
            "Leave out what need not be sent, and nothing else.",
        )],
        more: &[],
    },
    Words {
        name: "zero",
        spelled: "zero",
        line: "Pages of zeros: by the kernel's word where it has one, else by their content.",
        finds: "Pages that are mapped to the kernel's page of zeros, which are not read; and of \
                those that no filter settled before they were read, the ones that hold zeros only.",
        proves: "The page table, or the content itself, all 4096 bytes of it.",
        costs: "A page that is not settled by what the kernel says has to be read and hashed in any \
                case, for the digest of the memory. Looking whether it is zero costs little beside \
                that: a page that is not shows it in its first bytes.",
        off: NEVER,
        needs: "Nothing. As with 'unused'; a map of a herd keeps the two apart.",
        from: "Every VMM does this.",
        examples: &[(
            "mig-send --vm a=image:vm.img --filters zero --to file:vm.herd",
            "An image, without its zeros.",
        )],
        more: &[],
    },
    Words {
        name: "template",
        spelled: "template",
        line: "Pages of a template that both ends have.",
        finds: "With --template FILE at both ends: pages that the VM maps privately from FILE and \
                has not written, which are not read; and of those that were read, the ones that \
                equal a page of the template, the page of the same number first, then any. \
                With a randomised kernel two boots of one system share half of their pages, but \
                only a fifth at the same place.",
        proves: "Before the first page, mig-send tells a digest of the whole template, and \
                 mig-recv refuses to go on if none of its own has it. A page that is mapped from \
                 FILE and not written is FILE's by the kernel's word. For any other, a hash says \
                 where to look and the bytes decide. A template that is written to while the stream \
                 runs is noticed at either end, and nothing is committed.",
        costs: "Both ends read and hash the whole template once at their start, with all \
                processors, and keep some 25 bytes for each of its pages.",
        off: NEVER,
        needs: "mig-recv --template with the same content; the path may be another. A QEMU whose \
                memory is a private mapping of it goes on sharing it: see pageherd-qemu(7). In a herd the \
                map names the template's path at that end, and the file has to stay there, \
                unchanged, as long as the VM does: a page of it takes no memory in the herd. Into \
                an image it is copied, by reference where the file system can.",
        from: "Template-aware migration (Eswaran 2024, chapter 3), where it is the VMM that knows \
               which pages have left the template.",
        examples: &[
            (
                "mig-send --vm a=pid:4711 --template base.img --to 'exec:ssh host mig-recv --template base.img --into /dev/shm/herd'",
                "Send what has left the template, and nothing else. 'template' is in the list that \
                 is taken where --filters is not given.",
            ),
            (
                "mig-send --vm a=pid:4711 --template base.img --filters unused,zero,template,zstd=3 --to file:a.herd",
                "Pack the rest against the template too: see pageherd-zstd(7).",
            ),
        ],
        more: &[],
    },
    Words {
        name: "shared",
        spelled: "shared",
        line: "Pages on a frame that was sent already, for this VM or for another of the herd.",
        finds: "Pages that share their page frame with a page that this stream has sent: merged by \
                KSM, common since a fork, or of one file or shared memory. In a herd: pages on a \
                slot of the pool that was sent. They are named instead of sent, and not read; and \
                at the far end they stand once, as they did here.",
        proves: "The number of a frame says where to look and proves nothing: frames are freed and \
                 used again while a stream runs, by KSM, compaction and swap even under processes \
                 that stand still. The page tables are read around each other: that of this page, \
                 then that of the page that was sent, then that of this page again. If all three \
                 show the frame, both pages were on it at one moment; and as both stand still, what \
                 was sent for the one is the content of the other. Where the proof fails, the page \
                 is read and sent. --verify compares the content as well. A slot of a herd's pool \
                 does not change while it is in use: there its number is the proof. With --freeze \
                 none it is for you to see that nothing runs: then the proof holds no more than \
                 that does.",
        costs: "Two more looks at the page table for each page that is found, and 50 to 100 bytes of \
                memory for each frame that was sent and that somebody else maps too. No reading.",
        off: "Never: it keeps memory shared at the far end, which is worth more than the time.",
        needs: "A herd keeps the page once. An image has to hold it as often as it occurs, by \
                reference where the file system has reflinks (Btrfs, XFS).",
        from: "Sharing-aware migration (Eswaran 2024, section 5.4, Algorithm 1: unique, shared and \
               dirty pages by frame number). The proof is pageherd's own.",
        examples: &[
            (
                "mig-send --vm a=pid:4711 --vm b=pid:4712 | mig-recv --into /dev/shm/herd",
                "Two VMs that share memory, in one stream; what they share goes once. 'shared' is \
                 in the list that is taken where --filters is not given.",
            ),
            (
                "memscan a=pid:4711 b=pid:4712; memscan a=herd:/dev/shm/herd/a b=herd:/dev/shm/herd/b",
                "The footprint before and after.",
            ),
        ],
        more: &[],
    },
    Words {
        name: "same",
        spelled: "same",
        line: "Pages whose content was sent already, wherever it stood. It has to be asked for, but \
               with --qemu.",
        finds: "Pages whose content equals that of a page which this stream has sent, for the same \
                VM or for another of its trust group, though the two share no frame.",
        proves: "A hash of each page that was read says where to look. The page that was sent is \
                 then read again and compared, all 4096 bytes: pages with equal hashes and other \
                 content, which a guest can make at will, stay apart. QEMU's own stream cannot be read \
                 again: see below.",
        costs: "A look into a table for each page that was read and not settled, 10 to 20 bytes for \
                each page that was sent, and for each page that is found one more reading and a \
                comparison. The hash is made in any case. With --qemu: a keyed hash of each page and 24 \
                bytes and a table for each that is kept at the far end.",
        off: "When it has looked at 32 MiB, took more than an eighth of the time in which the link \
              carries as much, and what it saved would have been sent in less time than it took, it \
              rests for the next 512 MiB, or until the link proves slower. A link so slow that looking costs \
              nothing leaves it on for 256 MiB in which it finds nothing. The bill tells for how \
              many pages it was off. --keep-filters leaves it on; so does --group, since what is of \
              no use to one guest may be to the others.",
        needs: "As with 'shared': a herd keeps the page once. With --qemu: memory for a copy of each \
                page that may be named again (mig-recv --pool-max), until the move is over, and in a \
                group until that is ended.",
        from: "Deduplication among the VMs that leave a host together (Deshpande and others, \
               Scatter-Gather, section 4.4), here within a trust group and with the bytes compared.",
        examples: &[
            (
                "mig-send --vm a=pid:4711 --filters unused,zero,shared,same --to file:a.herd",
                "Within one VM, which is a trust group by itself.",
            ),
            (
                "mig-send --vm a=pid:4711 --vm b=pid:4712 --vm c=pid:4713 --trust a,b --filters unused,zero,shared,same --keep-filters | mig-recv --into /dev/shm/herd",
                "Among a and b too, which belong to one owner; never with c. --keep-filters, since \
                 here memory at the far end is worth more than time: a pipe is so fast that the \
                 filter would soon turn itself off.",
            ),
        ],
        more: &[
            Section {
                title: "In QEMU's stream",
                parts: &[Part::Text(
                    "With --qemu this filter is on without being asked for, within the one guest; and \
                     with --group among all guests of the group. Pages come by once there, and there \
                     is nothing to compare with. So a digest decides: 128 bits of BLAKE3, with a key \
                     that is made anew for each move, or for each group, and never leaves the source. \
                     Who does not have the key cannot make two pages of one digest; that it happens by \
                     chance takes some 2^64 pages. The receiver keeps the pages that the sender counts \
                     on, in its pool, and writes them again where they are named. Which pages the \
                     members of a group have sent stands in the group's directory, as digests. A member \
                     that failed has given nothing: its pages are not named any more.",
                )],
            },
            Section {
                title: "Trust groups",
                parts: &[Part::Text(
                    "Two guests whose equal pages are made one can learn of each other: a write to a \
                 page that is shared takes longer, and tells whether somebody else has that page \
                 (CVE-2015-2877). By default, therefore, only what was shared at the source is \
                 shared at the destination. --trust A,B says that A and B may share by content, \
                 because one owner has both; every other VM is by itself. There is one group for a \
                 command. Who sees the stream or its size learns the same thing: send groups that \
                 do not trust each other by commands of their own. A --group of QEMU's moves is such a \
                 group: who puts guests into one says that they may share by content.",
                )],
            },
        ],
    },
    Words {
        name: "xor",
        spelled: "xor",
        line: "The difference to the version of the page that was sent before.",
        finds: "Pages that are sent again and have changed a little since: of each chunk, which \
                bytes are others and what they are.",
        proves: "What is unpacked is hashed and has to fit the digest of the memory, as with every \
                 codec.",
        costs: "One pass over both versions.",
        off: CODEC_OFF,
        needs: "--live, without which no page is sent twice; and a herd at the far end, since images \
                take no rounds. The receiver unpacks it against the version that it has.",
        from: "Known from QEMU as XBZRLE.",
        examples: &[(
            "mig-send --vm a=pid:4711 --live --remember 1G --filters unused,zero,shared,xor,zstd --to unix:/run/herd.sock",
            "Send while the process runs; then the pages that have changed, as differences to what \
             was sent, for the last gibibyte of that.",
        )],
        more: &[Section {
            title: "Limits",
            parts: &[Part::Text(
                "The sender remembers as many pages as --remember allows, 64 MiB where nothing is \
                 said; a page that has been pushed out of that is sent whole. A difference that is \
                 not half as long as the page is left to the other codecs.",
            )],
        }],
    },
    Words {
        name: "lz4",
        spelled: "lz4",
        line: "LZ4: fast, and better than nothing on links of a few gigabits.",
        finds: "Pages that go as bytes, up to 256 KiB of them packed together.",
        proves: "What is unpacked has to be exactly as long as the pages, and to fit the digest of \
                 the memory. A chunk that does not become smaller goes as it is.",
        costs: "Processor time, on as many threads as --threads allows.",
        off: CODEC_OFF,
        needs: "Nothing. It is unpacked there by memory-safe code.",
        from: "The block format of LZ4, with nothing around it.",
        examples: &[(
            "mig-send --vm a=image:vm.img --filters zero,lz4 --keep-filters --to file:vm.herd",
            "Pack in any case.",
        )],
        more: &[],
    },
    Words {
        name: "zstd",
        spelled: "zstd[=LEVEL]",
        line: "Zstandard, at a level from -7 to 19 (1 where none is given).",
        finds: "Pages that go as bytes, up to 256 KiB of them packed together. With a template (and \
                'template' in the list), neighbours go in chunks of up to 64 KiB that are packed \
                against the template's pages of the same numbers: a page that differs in a few \
                bytes becomes those bytes. Where there are several templates, the first is used.",
        proves: "What is unpacked has to be one frame of exactly the length of the pages, and to fit \
                 the digest of the memory. A chunk that does not become smaller goes as it is.",
        costs: "Processor time, on as many threads as --threads allows; with every level more of \
                it. Level 1 is twice as fast as 3 for a few per cent more bytes.",
        off: CODEC_OFF,
        needs: "Nothing; with a template, the template. It is unpacked there in one step into memory \
                of the length that is waited for, so that no number in the stream decides how much \
                is taken.",
        from: "RFC 8878. That a template's page as a prefix is worth more than a trained dictionary \
               was measured.",
        examples: &[
            (
                "mig-send --vm a=pid:4711 --filters unused,zero,shared,zstd=3 --to 'exec:ssh host mig-recv --into /dev/shm/herd'",
                "A slow link.",
            ),
            (
                "mig-send --vm a=image:vm.img --filters zero,zstd=19 --keep-filters --to file:vm.herd",
                "As small as it gets.",
            ),
        ],
        more: &[],
    },
    Words {
        name: "exec",
        spelled: "exec:CMD",
        line: "An external program that packs. It is the last of the list: what follows is its own.",
        finds: "Pages that go as bytes, up to 256 KiB of them at once.",
        proves: "The program is trusted as you are: it sees what passes through it. It cannot spoil \
                 it unseen, since the digest of the memory is made of what goes into it and checked \
                 on what comes out of it at the far end.",
        costs: "What the program takes, and two copies through pipes. It runs once for each \
                direction, and is asked for one chunk after the other.",
        off: CODEC_OFF,
        needs: "mig-recv --filter exec:CMD with a program that unpacks. It is started before \
                mig-recv gives up its rights; it has the rights that mig-recv was started with.",
        from: "The protocol is pageherd's own.",
        examples: &[(
            "cargo build --release --example filter_words\n\
                 filter=exec:$PWD/target/release/examples/filter_words\n\
                 mig-send --vm a=pid:4711 --filters \"unused,zero,$filter\" --keep-filters |\n\
                 \x20   mig-recv --into /dev/shm/herd --filter \"$filter\"",
            "The worked example of the sources, examples/filter_words.rs: it packs runs of \
                 equal words.",
        )],
        more: &[Section {
            title: "Protocol",
            parts: &[
                Part::Text(
                    "Version 1. CMD is run by /bin/sh -c, with descriptors 0, 1 and 2 and no other, \
                     SIGPIPE in its default state, and a process group of its own; PAGEHERD_FILTER in \
                     its environment is 'pack' at the sender and 'unpack' at the receiver. What it \
                     writes to standard error is seen by the user.",
                ),
                Part::Terms(&[
                    (
                        "1. Greeting",
                        "On standard input it gets one line, 'pageherd-filter 1 pack' or \
                         'pageherd-filter 1 unpack', ended by a newline. It answers on standard \
                         output with the line 'pageherd-filter 1', ended by a newline, and nothing \
                         more. A program that does not know the version it is offered ends with a \
                         status other than 0.",
                    ),
                    (
                        "2. Requests",
                        "A length, as four bytes with the lowest first, and so many bytes. To pack: \
                         one or more whole pages of 4096 bytes, at most 262,144 bytes in all. To \
                         unpack: what 'pack' answered, as it was.",
                    ),
                    (
                        "3. Answers",
                        "One for each request, of the same shape and in the same order. From \
                         'pack': what the pages became, not longer than they were; or the length 0, \
                         for pages that do not become smaller and are sent as they are. From \
                         'unpack': the pages, exactly as many bytes as they had. A packed form that \
                         cannot be unpacked without the length of the pages has to carry it.",
                    ),
                    (
                        "4. Pace",
                        "Up to 16 requests may be sent before the first is answered. A program need \
                         not read ahead. It must flush each answer before it waits for the next \
                         request. An answer has to come within 60 seconds.",
                    ),
                    (
                        "5. End",
                        "When standard input ends between two requests, all is done: the program \
                         exits with status 0 and writes nothing more. Any other status means that it \
                         failed, and the transfer fails with it. One that takes too long, ends early \
                         or answers what this page does not allow is killed with its process group, \
                         and the error says what it did.",
                    ),
                ]),
            ],
        }],
    },
];

/// Name and line of each, for `--help`.
pub const LINES: [(&str, &str); ALL.len()] = {
    let mut lines = [("", ""); ALL.len()];
    let mut i = 0;
    while i < ALL.len() {
        lines[i] = (ALL[i].spelled, ALL[i].line);
        i += 1;
    }
    lines
};

/// The page of one filter: the name of its file, and what stands in it.
fn page(words: &Words) -> (String, String) {
    let name = format!("pageherd-{}", words.name);
    let mut out = title(&name, 7);
    let line = roff(&format!("{name} - mig-send filter: {}", lowered(words.line)));
    let _ = writeln!(out, ".SH NAME\n{}", line);
    // a command may have commas, so nothing can follow exec:
    let after = if words.spelled.starts_with("exec:") { "" } else { "[,\\fIFILTER\\fR...]" };
    let _ = writeln!(
        out,
        ".SH SYNOPSIS\n\\fBmig\\-send \\-\\-filters\\fR [\\fIFILTER\\fR,...]\\fB{}\\fR{after}",
        roff(words.spelled)
    );
    for (title, text) in [
        ("DESCRIPTION", words.finds),
        ("PROOF", words.proves),
        ("COST", words.costs),
        ("WHEN IT TURNS ITSELF OFF", words.off),
        ("AT THE FAR END", words.needs),
    ] {
        let _ = writeln!(out, ".SH \"{title}\"\n{}", roff(text));
    }
    words.more.iter().for_each(|more| section(more, &mut out));
    out.push_str(".SH EXAMPLES\n");
    parts(&[Part::Examples(words.examples)], &mut out);
    let _ = writeln!(out, ".SH ORIGIN\n{}", roff(words.from));
    let others = ALL.iter().filter(|other| other.name != words.name);
    let mut see = vec!["mig-send(1)".to_owned(), "mig-recv(1)".to_owned()];
    see.extend(others.map(|other| format!("pageherd-{}(7)", other.name)));
    see_also(&see, &mut out);
    (format!("{name}.7"), out)
}

/// The first sentence, as it goes on behind a colon.
fn lowered(line: &str) -> String {
    let first = line.split(". ").next().unwrap_or(line).trim_end_matches('.');
    let names = ["LZ4", "Zstandard"].iter().any(|name| first.starts_with(name));
    match first.split_at_checked(1).filter(|_| !names) {
        Some((head, rest)) => head.to_lowercase() + rest,
        None => first.to_owned(),
    }
}

/// The pages of all filters: names of files, and what stands in them.
pub fn pages() -> Vec<(String, String)> {
    ALL.iter().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::chain::{Chain, Name};

    #[test]
    fn every_filter_of_a_chain_has_a_page_and_every_page_a_filter() {
        for words in &ALL {
            let spelled = words.spelled.replace("[=LEVEL]", "=3").replace("CMD", "cat");
            let chain: Chain = spelled.parse().unwrap();
            let name = chain.names[0].to_string();
            assert!(name.starts_with(words.name), "{name}");
        }
        for name in Chain::default().names {
            let spelled = name.to_string();
            let word = spelled.split(['=', ':']).next().unwrap();
            assert!(ALL.iter().any(|words| words.name == word), "{word}");
        }
        assert!(!Chain::default().has(&Name::Same), "it has to be asked for, its page says");
    }

    #[test]
    fn the_filters_that_say_never_are_those_that_are_never_turned_off() {
        use crate::filter::{Filter, same::Same, shared::Shared, template::Template, zero};
        let filters: [Box<dyn Filter>; 5] = [
            Box::<zero::Unused>::default(),
            Box::<zero::Zero>::default(),
            Box::<Template>::default(),
            Box::new(Shared::new(&[], false)),
            Box::new(Same::new(&[], vec![])),
        ];
        for filter in filters {
            let words = ALL.iter().find(|words| words.name == filter.name()).unwrap();
            assert_eq!(words.off.starts_with("Never"), filter.always_on(), "{}", words.name);
        }
    }
}
