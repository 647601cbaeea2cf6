//! Streams that carry a VMM's own: right ones, and reasons 20 and 40 to 46.

use super::{
    ANSWERS, FOREIGN, ROUNDS, Scenario, TEMPLATES, VMM, bad, good, keyed, script, templates,
};
use crate::given::memory;
use crate::script::{
    Script, bytes, differs, number, packed, plain, pool, same, skip, template, zero,
};
use pageherd::wire::pages::{Base, Op, Packing};

const NATIVE: u8 = 11;
const POOL: u8 = 12;
const KEEP: u8 = 13;

/// A VMM's stream with VM `a` of so many pages, that is open and has no pool.
fn open(pages: u64) -> Script {
    let mut s = script(VMM);
    s.vm("a", pages).begin();
    s
}

/// The same with a pool of its own, in which pages are kept.
fn keeping(pages: u64) -> Script {
    let mut s = script(VMM);
    s.vm("a", pages).pool(0, 0, &[]).begin().keep(true);
    s
}

/// One that has no pool yet, and has not begun.
fn declared() -> Script {
    let mut s = script(VMM);
    s.vm("a", 1);
    s
}

pub(super) fn good_ones() -> Vec<Scenario> {
    let texts = [0x31, 0x32, 0x33];
    let mut on_template = Script::new(templates(), VMM | TEMPLATES);
    let near = [memory(&[0x42])[1..].to_vec(), vec![7]].concat();
    on_template
        .vm("a", 4)
        .template(0)
        .pool(0, 0, &[])
        .begin()
        .keep(true)
        .pages(0, 0, &[template(2, 0, 0), skip(1), bytes(&[0x55])])
        .pages(
            0,
            0,
            &[
                differs(
                    Packing::Xor,
                    &near,
                    &memory(&[0x42]),
                    Base::Template { template: 0, page: 2 },
                ),
                pool(1, 0, 0),
                pool(1, 0, 1),
            ],
        )
        .ready()
        .end_with(0, &[&near[..], &memory(&[0x55]), &near, &memory(&[0x55])].concat())
        .seal();
    vec![
        good(
            "ok_vmm_smallest",
            "a VMM's stream of which nothing is understood: no page comes",
            open(1).native(1, b"QEVM...").native(3, b"").native(1, &[0]).end(0, &[0]).seal(),
        ),
        good(
            "ok_vmm_pages_come_as_they_like",
            "a page comes three times, another never, and bytes stand between them",
            open(4)
                .native(1, b"head")
                .pages(0, 1, &[bytes(&[0x11, 0x22])])
                .native(1, b"between")
                .native(2, b"")
                .pages(0, 1, &[zero(1), skip(1), bytes(&[0x33])])
                .pages(0, 1, &[bytes(&[0x44])])
                .ready()
                .end(0, &[0, 0x44, 0x22, 0x33])
                .seal(),
        ),
        good(
            "ok_vmm_with_answers_and_a_key",
            "what a VMM says beside pages is sealed with the key",
            Script::new(keyed(b"secret"), VMM | ANSWERS)
                .vm_of("a", &[("pc.ram", 2), ("0000:00:02.0/vga.vram", 1)])
                .begin()
                .native(1, b"head")
                .pages(0, 0, &[bytes(&[0x11]), zero(2)])
                .ready()
                .native(1, b"{}")
                .end(0, &[0x11, 0, 0])
                .seal()
                .commit(),
        ),
        good(
            "ok_vmm_pool",
            "what is kept is numbered as it comes, zeros and packed pages too, and stays as it was",
            keeping(6)
                .pages(
                    0,
                    0,
                    &[bytes(&[0x11, 0]), zero(1), packed(Packing::Zstd, 3, &memory(&texts))],
                )
                .keep(false)
                .pages(0, 0, &[bytes(&[0x66]), pool(3, 0, 1), skip(1), pool(1, 0, 0)])
                .ready()
                .end(0, &[0x66, 0, 0x31, 0x32, 0x32, 0x11])
                .seal(),
        ),
        good(
            "ok_vmm_pool_in_one_record",
            "kept by an operation, named by the next; of pages packed together, where each stands",
            keeping(6)
                .pages(
                    0,
                    0,
                    &[
                        packed(Packing::Lz4, 1, &memory(&[0x21, 0x22])),
                        bytes(&[0x23]),
                        pool(2, 0, 0),
                        plain(1, Op::More),
                        pool(1, 0, 2),
                    ],
                )
                .ready()
                .end(0, &[0x21, 0x23, 0x21, 0x23, 0x22, 0x22])
                .seal(),
        ),
        good("ok_vmm_template", "templates, differences to them, and a pool", &mut on_template),
        good(
            "ok_vmm_features_not_used",
            "a pool that nobody uses, and bits of what a VMM's stream cannot have",
            script(VMM | ROUNDS | FOREIGN)
                .vm("a", 1)
                .pool(0, 0, &[])
                .begin()
                .keep(false)
                .keep(true)
                .keep(true)
                .ready()
                .end(0, &[0])
                .seal(),
        ),
    ]
}

pub(super) fn bad_ones() -> Vec<Scenario> {
    let mut all = not_announced();
    all.extend(forbidden());
    all.extend(parts());
    all.extend(pools());
    all
}

/// Reason 20.
fn not_announced() -> Vec<Scenario> {
    let plain_open = || super::open(0, 2);
    vec![
        bad(
            "native_not_announced",
            20,
            "wrong",
            "a part of a VMM's stream without its feature",
            plain_open().frame(NATIVE, &[1, 0]),
        ),
        bad(
            "pool_not_announced",
            20,
            "wrong",
            "a pool without its feature",
            script(0).vm("a", 1).pool(0, 0, &[]),
        ),
        bad(
            "keep_not_announced",
            20,
            "wrong",
            "pages are kept without the feature",
            plain_open().keep(true),
        ),
        bad(
            "pool_pages_not_announced",
            20,
            "wrong",
            "pages of a pool without its feature",
            plain_open().pages(0, 0, &[bytes(&[0x11]), pool(1, 0, 0)]),
        ),
        bad(
            "skip_not_announced",
            20,
            "wrong",
            "pages of which nothing is said, without the feature",
            plain_open().pages(0, 0, &[skip(2)]),
        ),
    ]
}

/// Reasons 26, 28, 35, 36 and 40: what a VMM's stream cannot have, or has at the wrong place.
fn forbidden() -> Vec<Scenario> {
    let near = differs(Packing::Xor, &memory(&[0]), &memory(&[0]), Base::Earlier);
    let mut unsealed = open(1);
    unsealed.native(1, b"head").frame(NATIVE, b"\x01not sealed").ready().end(0, &[0]).seal();
    let mut rounds = script(VMM | ROUNDS);
    rounds.vm("a", 1).begin().pages(0, 0, &[bytes(&[0x11])]);
    vec![
        bad(
            "native_before_begin",
            26,
            "wrong",
            "a part of a VMM's stream before all is declared",
            declared().native(1, b"head"),
        ),
        bad(
            "keep_before_begin",
            26,
            "wrong",
            "pages are kept before any can come",
            declared().pool(0, 0, &[]).keep(true),
        ),
        bad(
            "pool_after_begin",
            26,
            "wrong",
            "a pool that is declared when pages may have come",
            open(1).pool(0, 0, &[]),
        ),
        bad(
            "skip_beyond_the_vm",
            28,
            "beyond",
            "one page more than the VM has, though nothing is said of it",
            open(2).pages(0, 0, &[zero(2), skip(1)]),
        ),
        bad(
            "vmm_digest_of_what_came_first",
            35,
            "digest",
            "the digest is that of a page before it came again",
            open(1)
                .pages(0, 0, &[bytes(&[0x11])])
                .pages(0, 0, &[bytes(&[0x22])])
                .ready()
                .end(0, &[0x11])
                .seal(),
        ),
        bad(
            "vmm_seal_of_other_parts",
            36,
            "wrong",
            "a part of a VMM's stream that the seal is not over",
            &mut unsealed,
        ),
        bad("vmm_second_vm", 40, "wrong", "a second VM", declared().vm("b", 1)),
        bad(
            "vmm_foreign_vm",
            40,
            "wrong",
            "a VM that another stream brings",
            script(VMM | FOREIGN).vm("a", 1).foreign("f", 1),
        ),
        bad("vmm_round", 40, "wrong", "a round", rounds.clone().round(1)),
        bad(
            "vmm_same",
            40,
            "wrong",
            "a page as another of the VM",
            open(2).pages(0, 0, &[bytes(&[0x11]), same(1, 0, 0)]),
        ),
        bad(
            "vmm_unused",
            40,
            "wrong",
            "a page that is unused",
            open(1).pages(0, 0, &[plain(1, Op::Unused)]),
        ),
        bad(
            "vmm_changed",
            40,
            "wrong",
            "a difference to what the page was",
            rounds.pages(0, 0, &[near]),
        ),
    ]
}

/// Reasons 12, 41 and 45: `native` and `keep`.
fn parts() -> Vec<Scenario> {
    let part = |body: &[u8]| {
        let mut s = open(1);
        s.frame(NATIVE, body);
        s
    };
    let long = |kind: u8, bytes: usize| [vec![kind], vec![0x5a; bytes]].concat();
    vec![
        bad("native_without_a_kind", 12, "short", "a part without anything", &mut part(&[])),
        bad(
            "keep_goes_on",
            12,
            "wrong",
            "a byte behind the only one",
            keeping(1).frame(KEEP, &[1, 0]),
        ),
        bad("native_of_no_byte", 41, "wrong", "bytes that are none", &mut part(&[1])),
        bad("native_0", 41, "wrong", "a kind that is not defined", &mut part(&[0, 1])),
        bad("native_4", 41, "wrong", "a kind that is not defined", &mut part(&[4, 1])),
        bad("named_with_a_byte", 41, "wrong", "a byte too many", &mut part(&[2, 0])),
        bad(
            "native_of_1048577_bytes",
            41,
            "wrong",
            "one byte more than a part can have",
            &mut part(&long(1, 1_048_577)),
        ),
        bad(
            "ready_with_1025_bytes",
            41,
            "wrong",
            "one byte more than can be passed over",
            &mut part(&long(3, 1025)),
        ),
        bad("keep_2", 41, "wrong", "neither kept nor not", keeping(1).frame(KEEP, &[2])),
        bad(
            "ready_twice",
            45,
            "wrong",
            "it is ready a second time",
            open(1).ready().native(3, b""),
        ),
        bad(
            "pages_after_ready",
            45,
            "wrong",
            "a page when the VMM is to start",
            open(1).ready().pages(0, 0, &[bytes(&[0x11])]),
        ),
        bad(
            "named_after_ready",
            45,
            "wrong",
            "no page follows that could name its block",
            open(1).ready().native(2, b""),
        ),
        bad(
            "keep_after_ready",
            45,
            "wrong",
            "no page follows that could be kept",
            keeping(1).ready().keep(false),
        ),
        bad(
            "native_after_end",
            45,
            "wrong",
            "a VMM goes on after its VM was complete",
            open(1).ready().end(0, &[0]).native(1, b"more"),
        ),
        bad(
            "end_before_ready",
            45,
            "wrong",
            "a VM that is complete though its VMM cannot start it",
            open(1).native(1, b"head").pages(0, 0, &[zero(1)]).end(0, &[0]).seal(),
        ),
    ]
}

/// Reasons 16, 42 to 44 and 46: `pool`, and pages of it.
fn pools() -> Vec<Scenario> {
    let body = |member: u64, others: u64, rest: &[u64]| {
        let mut body = [vec![0; 16], number(member), number(others)].concat();
        rest.iter().for_each(|&field| body.extend(number(field)));
        let mut s = declared();
        s.frame(POOL, &body);
        s
    };
    let twice = || keeping(4).pages(0, 0, &[bytes(&[0x11, 0x22])]).clone();
    vec![
        bad("pool_cut", 12, "short", "a list that is shorter than it says", &mut body(0, 1, &[1])),
        bad(
            "pool_of_member_65536",
            16,
            "wrong",
            "a number that no member can have",
            &mut body(65_536, 0, &[]),
        ),
        bad(
            "pool_of_65536_others",
            16,
            "wrong",
            "more others than there can be",
            &mut body(0, 65_536, &[]),
        ),
        bad(
            "pool_of_no_page",
            16,
            "wrong",
            "a member of which nothing is known",
            declared().pool(9, 0, &[(1, 0)]),
        ),
        bad(
            "pool_of_2_pow_40_pages",
            16,
            "wrong",
            "a member with more pages than there can be",
            declared().pool(9, 0, &[(1, 1 << 40)]),
        ),
        bad(
            "pool_pages_of_member_65536",
            16,
            "wrong",
            "a number that no member can have",
            keeping(1).pages(0, 0, &[pool(1, 65_536, 0)]),
        ),
        bad(
            "pool_pages_beyond_all_limits",
            16,
            "wrong",
            "pages up to 2^40 of a member",
            keeping(2).pages(0, 0, &[pool(2, 0, (1 << 40) - 2)]),
        ),
        bad(
            "pool_before_the_vm",
            42,
            "wrong",
            "a pool before it is known for what",
            script(VMM).pool(0, 0, &[]),
        ),
        bad("pool_twice", 42, "wrong", "two pools", declared().pool(0, 0, &[]).pool(0, 0, &[])),
        bad(
            "pool_out_of_order",
            42,
            "wrong",
            "members that do not ascend",
            declared().pool(9, 0, &[(2, 1), (1, 1)]),
        ),
        bad(
            "pool_member_twice",
            42,
            "wrong",
            "a member that is named twice",
            declared().pool(9, 0, &[(1, 1), (1, 1)]),
        ),
        bad(
            "pool_with_itself",
            42,
            "wrong",
            "its own member among the others",
            declared().pool(9, 1, &[(0, 1), (1, 1)]),
        ),
        bad(
            "pool_of_its_own_as_member_1",
            42,
            "wrong",
            "a pool of one stream that is not its first member",
            declared().pool(0, 1, &[]),
        ),
        bad(
            "pool_of_its_own_with_others",
            42,
            "wrong",
            "a pool of one stream with another member",
            declared().pool(0, 0, &[(1, 1)]),
        ),
        bad(
            "keep_without_a_pool",
            43,
            "wrong",
            "pages are kept, and there is no pool",
            open(1).keep(true),
        ),
        bad(
            "pool_pages_without_a_pool",
            43,
            "wrong",
            "pages of a pool, and there is none",
            open(2).pages(0, 0, &[bytes(&[0x11]), pool(1, 0, 0)]),
        ),
        bad(
            "pool_pages_not_kept",
            44,
            "wrong",
            "two pages are kept, the third is named",
            twice().pages(0, 2, &[pool(2, 0, 1)]),
        ),
        bad(
            "pool_pages_of_another_member",
            44,
            "wrong",
            "pages of member 1 of a pool that has one",
            twice().pages(0, 2, &[pool(1, 1, 0)]),
        ),
        bad(
            "pool_pages_before_they_come",
            44,
            "wrong",
            "pages that a later operation would keep",
            keeping(2).pages(0, 0, &[pool(1, 0, 0), bytes(&[0x11])]),
        ),
        bad(
            "pool_pages_that_came_when_nothing_was_kept",
            44,
            "wrong",
            "a page that came as bytes after nothing more was kept",
            twice().keep(false).pages(0, 2, &[bytes(&[0x33])]).pages(0, 3, &[pool(1, 0, 2)]),
        ),
        bad(
            "pool_of_a_group",
            46,
            "group",
            "pages of other moves, which are not here",
            declared().pool(9, 2, &[(0, 5), (1, 7)]),
        ),
    ]
}
