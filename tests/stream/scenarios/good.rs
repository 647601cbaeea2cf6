//! Streams that are right: every record, operation, packing and feature.

use super::{
    ANSWERS, EXEC, FOREIGN, ROUNDS, Scenario, TEMPLATES, good, keyed, open, script, templates,
    with_template,
};
use crate::given::{Given, PAGE, memory};
use crate::script::{Script, bytes, differs, packed, plain, same, template, zero};
use pageherd::wire::header::Session;
use pageherd::wire::pages::{Base, Op, Packing};
use pageherd::wire::record::Record;

const EARLIER: Base = Base::Earlier;

pub(super) fn all() -> Vec<Scenario> {
    let mut all = plain_ones();
    all.extend(packings());
    all.extend(several());
    all
}

fn plain_ones() -> Vec<Scenario> {
    let mut optional = open(0, 1);
    optional.frame(200, b"anything").pages(0, 0, &[zero(1)]).frame(128, b"").end(0, &[0]).seal();
    let mut many = Script::new(Given { max_pages: 8192, ..Given::default() }, 0);
    let ops: Vec<_> =
        (0..8192).map(|i| plain(1, if i % 2 == 0 { Op::Zero } else { Op::Unused })).collect();
    many.vm("a", 8192).begin().pages(0, 0, &ops).end(0, &[0; 8192]).seal();
    vec![
        good(
            "ok_smallest",
            "one VM of one page, which is zero",
            open(0, 1).pages(0, 0, &[zero(1)]).end(0, &[0]).seal(),
        ),
        good(
            "ok_zero_unused_and_bytes",
            "what needs nothing beside it",
            open(0, 5)
                .pages(0, 0, &[zero(1), plain(2, Op::Unused), bytes(&[0x11, 0x22])])
                .end(0, &[0, 0, 0, 0x11, 0x22])
                .seal(),
        ),
        good(
            "ok_zeros_as_bytes",
            "a page of zeros among bytes adds nothing to the digest",
            open(0, 3).pages(0, 0, &[bytes(&[0x11, 0, 0x22])]).end(0, &[0x11, 0, 0x22]).seal(),
        ),
        good(
            "ok_pages_in_any_order",
            "records come in any order of pages",
            open(0, 4)
                .pages(0, 3, &[bytes(&[0x44])])
                .pages(0, 0, &[bytes(&[0x11]), zero(1)])
                .pages(0, 2, &[same(1, 0, 3)])
                .end(0, &[0x11, 0, 0x44, 0x44])
                .seal(),
        ),
        good(
            "ok_blocks",
            "pages are numbered through the blocks, and an operation goes over their border",
            script(0)
                .vm_of("a", &[("ram", 2), ("/rom@0.bin[1]:x+y-z_", 2)])
                .begin()
                .pages(0, 0, &[zero(1), bytes(&[0x11, 0x22]), zero(1)])
                .end(0, &[0, 0x11, 0x22, 0])
                .seal(),
        ),
        good("ok_most_operations", "8192 operations in one record", &mut many),
        good("ok_optional_records", "records from 128 on are passed over", &mut optional),
        good(
            "ok_optional_features_and_minor_version",
            "what a reader may pass over",
            script(0)
                .header_byte(10, 9)
                .header_byte(20, 0xff)
                .vm("a", 1)
                .begin()
                .pages(0, 0, &[zero(1)])
                .end(0, &[0])
                .seal(),
        ),
        good(
            "ok_features_not_used",
            "a feature may be announced and not used",
            open(ROUNDS | FOREIGN | TEMPLATES | EXEC, 1)
                .pages(0, 0, &[zero(1)])
                .end(0, &[0])
                .seal(),
        ),
        good(
            "ok_keyed",
            "digests, seal and check with a key",
            Script::new(keyed(b"secret"), 0)
                .vm("a", 3)
                .begin()
                .pages(0, 0, &[bytes(&[0x11]), zero(1), packed(Packing::Zstd, 1, &memory(&[0x22]))])
                .end(0, &[0x11, 0, 0x22])
                .seal(),
        ),
        good(
            "ok_answers_and_commit",
            "with answers a stream ends with commit",
            open(ANSWERS, 1).pages(0, 0, &[bytes(&[0x11])]).end(0, &[0x11]).seal().commit(),
        ),
        good(
            "ok_anything_after_commit",
            "what comes after commit changes nothing",
            open(ANSWERS, 1)
                .pages(0, 0, &[bytes(&[0x11])])
                .end(0, &[0x11])
                .seal()
                .commit()
                .raw("garbage", b"xyz"),
        ),
        good(
            "ok_resolve",
            "asks what became of a session; brings nothing",
            script(ANSWERS).record(&Record::Resolve(Session([9; 16]))),
        ),
    ]
}

fn packings() -> Vec<Scenario> {
    let more = |pages| plain(pages, Op::More);
    let text: Vec<u8> = b"some words ".iter().copied().cycle().take(2 * PAGE).collect();
    let mut ended = memory(&[0]);
    ended.extend(&text);
    let mut spread = text.clone();
    spread.extend(memory(&[0x77]));
    let mut apart = spread[..PAGE].to_vec();
    apart.extend(memory(&[0]));
    apart.extend(&spread[PAGE..]);
    apart.extend(memory(&[0x55]));
    let changed = |fill: u8, at: usize, byte: u8| {
        let mut page = memory(&[fill]);
        page[at] = byte;
        page
    };
    let (near, far) = (changed(0x41, 100, 7), changed(0x42, 4095, 8));
    let on_template = Base::Template { template: 0, page: 0 };
    let on_second = Base::Template { template: 0, page: 2 };
    let mut dictionary = memory(&[0x99]);
    dictionary[..4].copy_from_slice(&[0x37, 0xa4, 0x30, 0xec]);
    let mut like = dictionary.clone();
    like[2000] = 1;
    let most: Vec<_> = (0..16).map(|_| packed(Packing::Zstd, 64, &memory(&[0x66; 64]))).collect();
    let given = Given { exec: true, ..Given::default() };
    vec![
        good(
            "ok_lz4",
            "pages packed together as a block of LZ4",
            open(0, 3)
                .pages(0, 0, &[zero(1), packed(Packing::Lz4, 2, &text)])
                .end_with(0, &ended)
                .seal(),
        ),
        good(
            "ok_zstd",
            "pages packed together as a frame of zstd",
            open(0, 3)
                .pages(0, 0, &[zero(1), packed(Packing::Zstd, 2, &text)])
                .end_with(0, &ended)
                .seal(),
        ),
        good(
            "ok_packed_apart",
            "pages that are packed together need not be neighbours; other operations stand between",
            open(0, 5)
                .pages(
                    0,
                    0,
                    &[packed(Packing::Lz4, 1, &spread), zero(1), more(1), more(1), bytes(&[0x55])],
                )
                .end_with(0, &apart)
                .seal(),
        ),
        good(
            "ok_packed_zeros",
            "packed pages can be zero, and add nothing to the digest",
            open(0, 4)
                .pages(0, 0, &[packed(Packing::Zstd, 4, &memory(&[0, 0x11, 0, 0]))])
                .end(0, &[0, 0x11, 0, 0])
                .seal(),
        ),
        good(
            "ok_most_pages_as_bytes",
            "1024 pages in one record",
            open(0, 1024).pages(0, 0, &most).end(0, &[0x66; 1024]).seal(),
        ),
        good(
            "ok_exec",
            "pages packed by an external filter",
            Script::new(given, EXEC)
                .vm("a", 3)
                .begin()
                .pages(0, 0, &[packed(Packing::Exec, 3, &memory(&[0x11, 0, 0x33]))])
                .end(0, &[0x11, 0, 0x33])
                .seal(),
        ),
        good(
            "ok_template",
            "pages of a template, one of them zero",
            with_template(0, 5)
                .pages(0, 0, &[template(2, 0, 1), bytes(&[0x11]), template(2, 0, 0)])
                .end(0, &[0, 0x42, 0x11, 0x41, 0])
                .seal(),
        ),
        good(
            "ok_differs_xor_and_zstd",
            "differences to pages of a template",
            with_template(0, 2)
                .pages(
                    0,
                    0,
                    &[
                        differs(Packing::Xor, &near, &memory(&[0x41]), on_template),
                        differs(Packing::Zstd, &far, &memory(&[0x42]), on_second),
                    ],
                )
                .end_with(0, &[near.clone(), far.clone()].concat())
                .seal(),
        ),
        good(
            "ok_differs_in_nothing",
            "a difference to pages that are equal, of which one is zero",
            with_template(0, 2)
                .pages(
                    0,
                    0,
                    &[differs(Packing::Xor, &memory(&[0x41, 0]), &memory(&[0x41, 0]), on_template)],
                )
                .end(0, &[0x41, 0])
                .seal(),
        ),
        good(
            "ok_changed",
            "later rounds: differences to what the pages held before, also to zeros",
            open(ROUNDS, 2)
                .pages(0, 0, &[bytes(&[0x41]), zero(1)])
                .round(1)
                .pages(0, 0, &[differs(Packing::Xor, &near, &memory(&[0x41]), EARLIER)])
                .pages(0, 1, &[differs(Packing::Xor, &changed(0, 9, 9), &memory(&[0]), EARLIER)])
                .round(2)
                .pages(0, 0, &[differs(Packing::Zstd, &far, &near, EARLIER)])
                .end_with(0, &[far.clone(), changed(0, 9, 9)].concat())
                .seal(),
        ),
        good(
            "ok_changed_from_what_looks_like_a_dictionary",
            "a base that begins as a dictionary of zstd does is used without its first byte",
            open(ROUNDS, 1)
                .pages(0, 0, &[(bytes(&[0]).0, dictionary.clone())])
                .round(1)
                .pages(0, 0, &[differs(Packing::Zstd, &like, &dictionary, EARLIER)])
                .end_with(0, &like)
                .seal(),
        ),
    ]
}

fn several() -> Vec<Scenario> {
    let mut late = Script::of_session(Given::default(), 0, 8);
    late.vm("f", 2).begin().pages(0, 0, &[bytes(&[0x61, 0x62])]).end(0, &[0x61, 0x62]).seal();
    let refers = |script: &mut Script| {
        script
            .vm("a", 3)
            .foreign("f", 2)
            .begin()
            .pages(0, 0, &[same(2, 1, 0), same(1, 1, 1)])
            .end(0, &[0x61, 0x62, 0x62])
            .seal();
        script.clone()
    };
    let mut taken = templates();
    taken.templates.insert(0, vec![0x99]);
    let mut second = Script::new(taken, TEMPLATES);
    second
        .vm("a", 2)
        .template(1)
        .template(0)
        .begin()
        .pages(0, 0, &[template(1, 1, 0), template(1, 0, 3)])
        .end(0, &[0x99, 0x43])
        .seal();
    vec![
        good(
            "ok_vms",
            "two VMs that share pages; one ends early and is still referred to",
            script(0)
                .vm("a", 2)
                .vm("b.-_9", 3)
                .begin()
                .pages(0, 0, &[bytes(&[0x11]), zero(1)])
                .end(0, &[0x11, 0])
                .pages(1, 0, &[same(2, 0, 0), same(1, 1, 0)])
                .end(1, &[0x11, 0, 0x11])
                .seal(),
        ),
        good(
            "ok_same_in_one_record",
            "a reference to an earlier operation of the same record",
            open(0, 4).pages(0, 0, &[bytes(&[0x11, 0x22]), same(2, 0, 0)]).end(0, &[0x11, 0x22, 0x11, 0x22]).seal(),
        ),
        good("ok_templates", "two templates, in another order than the reader has them", &mut second),
        good(
            "ok_rounds",
            "a page that comes again does not change those that were said to be the same",
            open(ROUNDS, 3)
                .pages(0, 0, &[bytes(&[0x11]), same(1, 0, 0), zero(1)])
                .round(1)
                .pages(0, 0, &[bytes(&[0x22])])
                .round(2)
                .pages(0, 2, &[same(1, 0, 1)])
                .pages(0, 1, &[same(1, 0, 0)])
                .end(0, &[0x22, 0x22, 0x11])
                .seal(),
        ),
        good(
            "ok_rounds_to_zero_and_template",
            "pages become zero, unused, a template's, and bytes again",
            with_template(ROUNDS, 3)
                .pages(0, 0, &[bytes(&[0x11, 0x22]), template(1, 0, 0)])
                .round(1)
                .pages(0, 0, &[zero(1), plain(1, Op::Unused), bytes(&[0x33])])
                .round(2)
                .pages(0, 1, &[template(1, 0, 3)])
                .end(0, &[0, 0x43, 0x33])
                .seal(),
        ),
        good(
            "ok_round_after_a_vm_has_ended",
            "a VM can end in an earlier round than others",
            script(ROUNDS)
                .vm("a", 1)
                .vm("b", 1)
                .begin()
                .pages(0, 0, &[zero(1)])
                .end(0, &[0])
                .pages(1, 0, &[zero(1)])
                .round(1)
                .pages(1, 0, &[bytes(&[0x11])])
                .end(1, &[0x11])
                .seal(),
        ),
        good(
            "ok_same_as_old_content_of_a_later_page",
            "in a later round a reference means what its page holds at that moment",
            open(ROUNDS, 2)
                .pages(0, 0, &[bytes(&[0x11, 0x22])])
                .round(1)
                .pages(0, 0, &[same(1, 0, 1), same(1, 0, 0)])
                .end(0, &[0x22, 0x22])
                .seal(),
        ),
        good("ok_donor", "the VM that others refer to", &mut late),
        good("ok_foreign_that_has_come", "references to a VM that came before", &mut refers(&mut script(FOREIGN))).before("ok_donor"),
        good("ok_foreign_that_comes_later", "references to a VM that comes after", &mut refers(&mut script(FOREIGN))).behind("ok_donor"),
        good(
            "ok_waiting_page_comes_again",
            "a page that waits for another stream comes again in a later round: what comes last counts",
            script(FOREIGN | ROUNDS)
                .vm("a", 2)
                .foreign("f", 2)
                .begin()
                .pages(0, 0, &[same(2, 1, 0)])
                .round(1)
                .pages(0, 0, &[bytes(&[0x11])])
                .end(0, &[0x11, 0x62])
                .seal(),
        )
        .behind("ok_donor"),
    ]
}
