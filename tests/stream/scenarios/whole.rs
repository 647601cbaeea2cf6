//! Streams whose records are right one by one and wrong together: reasons 20 to 39.

use super::{
    ANSWERS, EXEC, FOREIGN, ROUNDS, Scenario, TEMPLATES, bad, open, script, templates,
    with_template,
};
use crate::given::{Given, PAGE, memory};
use crate::script::{Script, bytes, differs, pack, packed, same, template, zero};
use pageherd::wire::header::Session;
use pageherd::wire::pages::{Base, Op, Packing, PageOp};
use pageherd::wire::record::Record;

const EARLIER: Base = Base::Earlier;

fn whole(features: u64) -> Script {
    let mut s = open(features, 1);
    s.pages(0, 0, &[bytes(&[0x11])]).end(0, &[0x11]).seal();
    s
}

/// A VM of one page whose digest, or seal, is another.
fn other(end: bool) -> Script {
    let mut s = open(0, 1);
    s.pages(0, 0, &[bytes(&[0x11])]);
    if end {
        s.end(0, &[0x12]).seal();
    } else {
        let mut seal = s.end(0, &[0x11]).seal_bytes();
        seal[7] ^= 1;
        s.record(&Record::Seal(seal));
    }
    s
}

pub(super) fn all() -> Vec<Scenario> {
    let exec = Given { exec: true, ..Given::default() };
    let fill = || packed(Packing::Exec, 1, &memory(&[0x11]));
    let near = differs(Packing::Xor, &memory(&[0]), &memory(&[0]), EARLIER);
    let resolve = Record::Resolve(Session([9; 16]));
    let donor = |name: &str, pages| {
        let mut s = script(FOREIGN);
        s.vm("a", 1).foreign(name, pages);
        s
    };
    let mut other_template = templates();
    other_template.templates[0][3] = 0x44;
    let longer = Given { templates: vec![vec![0x41, 0, 0x42, 0x43, 0]], ..Given::default() };
    let zeros = || [zero(1)];
    vec![
        bad(
            "template_not_announced",
            20,
            "wrong",
            "a template without its feature",
            Script::new(templates(), 0).vm("a", 1).template(0),
        ),
        bad(
            "foreign_not_announced",
            20,
            "wrong",
            "a foreign VM without its feature",
            script(0).vm("a", 1).foreign("f", 1),
        ),
        bad(
            "round_not_announced",
            20,
            "wrong",
            "a round without its feature",
            open(0, 1).pages(0, 0, &zeros()).round(1),
        ),
        bad(
            "changed_not_announced",
            20,
            "wrong",
            "a difference to an earlier round without its feature",
            open(0, 1).pages(0, 0, std::slice::from_ref(&near)),
        ),
        bad(
            "exec_not_announced",
            20,
            "wrong",
            "an external filter without its feature",
            Script::new(exec.clone(), 0).vm("a", 1).begin().pages(0, 0, &[fill()]),
        ),
        bad(
            "resolve_not_announced",
            20,
            "wrong",
            "a question that takes no answer",
            script(0).record(&resolve),
        ),
        bad("name_twice", 21, "wrong", "two VMs of one name", script(0).vm("a", 1).vm("a", 1)),
        bad(
            "name_own_and_foreign",
            21,
            "wrong",
            "a VM that is the stream's own and another's",
            donor("a", 1).begin(),
        ),
        bad(
            "name_foreign_and_own",
            21,
            "wrong",
            "a VM that is another's and the stream's own",
            script(FOREIGN).foreign("a", 1).vm("a", 1),
        ),
        bad(
            "name_in_use",
            21,
            "taken",
            "a name that the receiver has already",
            script(0).vm("b", 1).vm("f", 2),
        )
        .before("ok_donor"),
        bad(
            "vm_larger_than_allowed",
            22,
            "too-large",
            "one page more than the receiver allows",
            script(0).vm("a", 4097),
        ),
        bad(
            "vms_larger_than_allowed",
            22,
            "too-large",
            "two VMs that are too large together",
            script(0).vm("a", 4096).vm("b", 1),
        ),
        bad(
            "foreign_larger_than_allowed",
            22,
            "too-large",
            "foreign VMs count as well",
            donor("f", 4096).begin(),
        ),
        bad(
            "vm_of_4_pib",
            22,
            "too-large",
            "the largest VM that can be declared",
            script(0).vm("a", (1 << 40) - 1),
        ),
        bad(
            "foreign_of_another_shape",
            23,
            "other-shape",
            "it has two pages, not three",
            &mut donor("f", 3),
        )
        .before("ok_donor"),
        bad(
            "template_of_another_content",
            24,
            "template",
            "one page of the template is another here",
            &mut with_template(0, 1),
        )
        .given(other_template),
        bad(
            "template_of_another_length",
            24,
            "template",
            "the template has a page more here",
            &mut with_template(0, 1),
        )
        .given(longer),
        bad(
            "template_not_here",
            24,
            "template",
            "the receiver has no template",
            &mut with_template(0, 1),
        )
        .given(Given::default()),
        bad("begin_without_vm", 25, "wrong", "nothing is declared", script(0).begin()),
        bad(
            "begin_with_foreign_vms_alone",
            25,
            "wrong",
            "nothing of its own",
            script(FOREIGN).foreign("f", 1).begin(),
        ),
        bad("vm_after_begin", 26, "wrong", "declared too late", open(0, 1).vm("b", 1)),
        bad(
            "template_after_begin",
            26,
            "wrong",
            "declared too late",
            with_template(0, 1).template(0),
        ),
        bad("begin_twice", 26, "wrong", "it begins twice", open(0, 1).begin()),
        bad(
            "pages_before_begin",
            26,
            "wrong",
            "pages before all is declared",
            script(0).vm("a", 1).pages(0, 0, &zeros()),
        ),
        bad(
            "round_before_begin",
            26,
            "wrong",
            "a round before all is declared",
            script(ROUNDS).vm("a", 1).round(1),
        ),
        bad(
            "end_before_begin",
            26,
            "wrong",
            "complete before all is declared",
            script(0).vm("a", 1).end(0, &[0]),
        ),
        bad(
            "seal_before_begin",
            26,
            "wrong",
            "sealed before all is declared",
            script(0).vm("a", 1).seal(),
        ),
        bad("seal_first", 26, "wrong", "nothing but a seal", script(0).seal()),
        bad(
            "commit_before_seal",
            26,
            "wrong",
            "given up before it is sealed",
            open(ANSWERS, 1).pages(0, 0, &zeros()).end(0, &[0]).commit(),
        ),
        bad(
            "resolve_after_vm",
            26,
            "wrong",
            "a question in a stream that brings something",
            script(ANSWERS).vm("a", 1).record(&resolve),
        ),
        bad(
            "resolve_after_an_optional_record",
            26,
            "wrong",
            "a question that is not the first record",
            script(ANSWERS).frame(200, b"").record(&resolve),
        ),
        bad(
            "resolve_after_seal",
            26,
            "trailing",
            "a question after the seal",
            whole(ANSWERS).record(&resolve),
        ),
        bad(
            "pages_after_end",
            26,
            "wrong",
            "pages of a VM that has ended",
            open(ROUNDS, 1).pages(0, 0, &zeros()).end(0, &[0]).round(1).pages(0, 0, &[bytes(&[1])]),
        ),
        bad(
            "end_twice",
            26,
            "wrong",
            "a VM ends twice",
            open(0, 1).pages(0, 0, &zeros()).end(0, &[0]).end(0, &[0]),
        ),
        bad(
            "round_2_first",
            26,
            "wrong",
            "round 1 is left out",
            open(ROUNDS, 1).pages(0, 0, &zeros()).round(2),
        ),
        bad(
            "round_0",
            26,
            "wrong",
            "the first round is number 1",
            open(ROUNDS, 1).pages(0, 0, &zeros()).round(0),
        ),
        bad(
            "round_1_twice",
            26,
            "wrong",
            "a round that is not the next",
            open(ROUNDS, 1).pages(0, 0, &zeros()).round(1).round(1),
        ),
        bad(
            "seal_before_end",
            26,
            "wrong",
            "sealed while a VM is open",
            open(0, 1).pages(0, 0, &zeros()).seal(),
        ),
        bad(
            "pages_of_nobody",
            27,
            "wrong",
            "pages of VM 1, of which there is none",
            open(0, 1).pages(1, 0, &zeros()),
        ),
        bad(
            "end_of_nobody",
            27,
            "wrong",
            "the end of VM 1, of which there is none",
            open(0, 1).end(1, &[0]),
        ),
        bad(
            "same_as_nobody",
            27,
            "wrong",
            "a reference to VM 1, of which there is none",
            open(0, 1).pages(0, 0, &[same(1, 1, 0)]),
        ),
        bad(
            "pages_of_foreign",
            27,
            "wrong",
            "pages of a VM that another stream brings",
            donor("f", 1).begin().pages(1, 0, &zeros()),
        ),
        bad(
            "end_of_foreign",
            27,
            "wrong",
            "the end of a VM that another stream brings",
            donor("f", 1).begin().end(1, &[0]),
        ),
        bad(
            "template_not_declared",
            27,
            "wrong",
            "a page of template 1, of which there is none",
            with_template(0, 1).pages(0, 0, &[template(1, 1, 0)]),
        ),
        bad(
            "differs_from_a_template_not_declared",
            27,
            "wrong",
            "a difference to template 1, of which there is none",
            with_template(0, 1).pages(
                0,
                0,
                &[differs(
                    Packing::Xor,
                    &memory(&[0]),
                    &memory(&[0]),
                    Base::Template { template: 1, page: 0 },
                )],
            ),
        ),
    ]
}

/// Reasons 28 to 39.
pub(super) fn content() -> Vec<Scenario> {
    let on = |page| Base::Template { template: 0, page };
    let (zeros, page) = (memory(&[0]), memory(&[0x11]));
    let refers = |s: &mut Script, ops: &[(PageOp, Vec<u8>)]| {
        s.vm("a", 3).foreign("f", 2).begin().pages(0, 0, ops);
        s.clone()
    };
    let waits = || refers(&mut script(FOREIGN | ROUNDS), &[same(1, 1, 0), zero(2)]);
    let mut never = waits();
    never.end(0, &[0x61, 0, 0]).seal();
    let mut again = waits();
    again.round(1).pages(0, 2, &[same(1, 1, 1)]);
    let mut waiting = refers(&mut script(FOREIGN), &[same(1, 1, 0)]);
    waiting.pages(0, 1, &[same(1, 0, 0)]);
    let mut cut = whole(0);
    cut.pieces.truncate(4);
    let mut in_frame = cut.clone();
    in_frame.pieces[3].1.truncate(100);
    let mut in_head = cut.clone();
    in_head.pieces[3].1.truncate(11);
    let mut in_header = script(0);
    in_header.pieces[0].1.truncate(63);
    let mut empty = script(0);
    empty.pieces.clear();
    let mut all = vec![
        bad(
            "pages_beyond_the_vm",
            28,
            "beyond",
            "one page more than the VM has",
            open(0, 2).pages(0, 1, &[zero(2)]),
        ),
        bad(
            "pages_far_beyond_the_vm",
            28,
            "beyond",
            "a page that no VM of this size has",
            open(0, 2).pages(0, (1 << 40) - 2, &[zero(1)]),
        ),
        bad(
            "same_beyond_the_vm",
            28,
            "beyond",
            "a reference to a page that is not there",
            open(0, 3).pages(0, 0, &[zero(1), same(1, 0, 3)]),
        ),
        bad(
            "template_beyond_its_end",
            28,
            "beyond-template",
            "one page more than the template has",
            with_template(0, 2).pages(0, 0, &[template(2, 0, 3)]),
        ),
        bad(
            "differs_beyond_the_template",
            28,
            "wrong",
            "a difference to a page that the template does not have",
            with_template(0, 1).pages(0, 0, &[differs(Packing::Xor, &zeros, &zeros, on(4))]),
        ),
        bad(
            "page_twice",
            29,
            "twice",
            "a page comes in two records",
            open(0, 2).pages(0, 0, &[bytes(&[0x11, 0x22])]).pages(0, 1, &[zero(1)]),
        ),
        bad(
            "page_twice_while_it_waits",
            29,
            "twice",
            "a page that waits for another stream comes once more",
            waits().pages(0, 0, &[bytes(&[0x11])]).end(0, &[0x11, 0, 0]).seal(),
        ),
        bad(
            "page_twice_in_a_later_round",
            29,
            "twice",
            "a page comes twice in round 1",
            open(ROUNDS, 2).pages(0, 0, &[zero(2)]).round(1).pages(0, 1, &[bytes(&[1])]).pages(
                0,
                1,
                &[zero(1)],
            ),
        ),
        bad(
            "same_as_a_page_to_come",
            30,
            "dangling",
            "a reference to a page that has not come",
            open(0, 2).pages(0, 0, &[same(1, 0, 1), bytes(&[0x11])]),
        ),
        bad(
            "same_as_itself",
            30,
            "wrong",
            "a reference to the page itself",
            open(0, 2).pages(0, 0, &[bytes(&[0x11]), same(1, 0, 1)]),
        ),
        bad(
            "same_overlapping_itself",
            30,
            "wrong",
            "a run that is to repeat the page before it",
            open(0, 4).pages(0, 0, &[bytes(&[0x11]), same(3, 0, 0)]),
        ),
        bad(
            "same_as_itself_in_a_later_round",
            30,
            "wrong",
            "a reference to the page itself, which was there before",
            open(ROUNDS, 2).pages(0, 0, &[bytes(&[0x11, 0x22])]).round(1).pages(
                0,
                0,
                &[same(2, 0, 0)],
            ),
        ),
        bad(
            "same_as_a_page_that_waits",
            30,
            "dangling",
            "a reference to a page that waits for another stream",
            &mut waiting,
        ),
        bad(
            "foreign_in_a_later_round",
            30,
            "wrong",
            "a reference to another stream in round 1",
            &mut again,
        ),
        bad(
            "foreign_that_never_comes",
            31,
            "never-arrived",
            "no stream brings the page",
            &mut never,
        ),
        bad(
            "end_with_a_page_missing",
            32,
            "missing",
            "page 1 never came",
            open(0, 3).pages(0, 0, &[zero(1)]).pages(0, 2, &[zero(1)]).end(0, &[0, 0, 0]).seal(),
        ),
        bad("end_without_pages", 32, "missing", "no page came", open(0, 1).end(0, &[0]).seal()),
        bad(
            "round_with_a_page_missing",
            32,
            "missing",
            "round 1 before all pages have come",
            open(ROUNDS, 2)
                .pages(0, 0, &[zero(1)])
                .round(1)
                .pages(0, 1, &[zero(1)])
                .end(0, &[0, 0])
                .seal(),
        ),
        bad(
            "changed_in_the_first_round",
            34,
            "wrong",
            "a difference to a page that has not come",
            open(ROUNDS, 1).pages(
                0,
                0,
                &[differs(Packing::Xor, &page, &zeros_with_one(), EARLIER)],
            ),
        ),
        bad(
            "changed_from_a_page_that_waits",
            34,
            "wrong",
            "a difference to a page of which the content is not there",
            waits().round(1).pages(0, 0, &[differs(Packing::Xor, &zeros, &zeros, EARLIER)]),
        ),
        bad(
            "digest_of_another_memory",
            35,
            "digest",
            "all pages are there, and one is another",
            &mut other(true),
        ),
        bad(
            "digest_of_pages_swapped",
            35,
            "digest",
            "the right pages in the wrong places",
            open(0, 2).pages(0, 0, &[bytes(&[0x11, 0x22])]).end(0, &[0x22, 0x11]).seal(),
        ),
        bad(
            "seal_of_another_stream",
            36,
            "wrong",
            "a bit of the seal is another",
            &mut other(false),
        ),
        bad(
            "aborted_at_once",
            37,
            "aborted",
            "the sender gives up before anything",
            script(0).record(&Record::Abort("no \u{1b}[31m memory".into())),
        ),
        bad(
            "aborted_in_the_middle",
            37,
            "aborted",
            "the sender gives up between pages",
            open(0, 2).pages(0, 0, &[bytes(&[0x11])]).record(&Record::Abort("x".into())),
        ),
        bad(
            "aborted_before_commit",
            37,
            "aborted",
            "the sender gives up instead of committing",
            whole(ANSWERS).record(&Record::Abort(String::new())),
        ),
        bad("cut_before_the_header", 38, "cut", "nothing at all", &mut empty),
        bad("cut_in_the_header", 38, "cut", "a byte of the header is missing", &mut in_header),
        bad("cut_after_the_header", 38, "cut", "nothing but a header", &mut script(0)),
        bad("cut_in_the_head_of_a_frame", 38, "cut", "eleven bytes of a frame", &mut in_head),
        bad("cut_in_a_frame", 38, "cut", "half a page", &mut in_frame),
        bad("cut_between_frames", 38, "cut", "all pages, no end", &mut cut),
        bad("cut_before_commit", 38, "cut", "sealed, and never committed", &mut whole(ANSWERS)),
        bad(
            "byte_after_the_seal",
            39,
            "trailing",
            "one byte too many",
            whole(0).raw("a byte", &[0]),
        ),
        bad(
            "commit_without_answers",
            39,
            "trailing",
            "a stream without answers ends with its seal",
            whole(0).commit(),
        ),
        bad(
            "optional_record_after_the_seal",
            39,
            "trailing",
            "nothing but commit or abort follows the seal",
            whole(ANSWERS).frame(200, b""),
        ),
        bad(
            "pages_after_the_seal",
            39,
            "trailing",
            "pages after the seal",
            whole(ANSWERS).pages(0, 0, &[zero(1)]),
        ),
    ];
    all.extend(unpacking());
    all
}

fn zeros_with_one() -> Vec<u8> {
    let mut page = memory(&[0x11]);
    page[0] = 1;
    page
}

/// Reason 33.
fn unpacking() -> Vec<Scenario> {
    let text: Vec<u8> = b"some words ".iter().copied().cycle().take(2 * PAGE).collect();
    let of = |with, pages: u64, bytes: Vec<u8>| {
        let length = u32::try_from(bytes.len()).unwrap();
        let op = Op::Packed { chunk: pages, with, length, base: None };
        let mut s = open(0, 4);
        s.pages(0, 0, &[(PageOp { pages, op }, bytes)]);
        s
    };
    let on_template = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap();
        let base = Some(Base::Template { template: 0, page: 0 });
        let op = Op::Packed { chunk: 1, with: Packing::Xor, length, base };
        let mut s = with_template(0, 1);
        s.pages(0, 0, &[(PageOp { pages: 1, op }, bytes.to_vec())]);
        s
    };
    let zstd = |content: &[u8]| pack(Packing::Zstd, content, None);
    let bomb = zstd(&memory(&[0; 64]));
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let once = zstd(&memory(&[0x11]));
    let twice = [&once[..], &magic, &once].concat();
    let skipped = [&once[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat();
    // a window of 512 MiB, no content size, one empty last block
    let window = vec![0x00, 0x98, 0x01, 0, 0];
    let lz4 = pack(Packing::Lz4, &text, None);
    let mut damaged = zstd(&text);
    let last = damaged.len() - 3;
    damaged.truncate(last);
    let exec = Given { exec: true, ..Given::default() };
    let fill = |given: Given, bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap();
        let op = Op::Packed { chunk: 1, with: Packing::Exec, length, base: None };
        let mut s = Script::new(given, EXEC | TEMPLATES);
        s.vm("a", 1).begin().pages(0, 0, &[(PageOp { pages: 1, op }, bytes.to_vec())]);
        s
    };
    vec![
        bad(
            "lz4_of_more_pages",
            33,
            "packed",
            "two pages where one should be",
            &mut of(Packing::Lz4, 1, lz4.clone()),
        ),
        bad(
            "lz4_of_fewer_pages",
            33,
            "packed",
            "two pages where three should be",
            &mut of(Packing::Lz4, 3, lz4.clone()),
        ),
        bad(
            "lz4_cut",
            33,
            "packed",
            "a block that is cut",
            &mut of(Packing::Lz4, 2, lz4[..lz4.len() - 4].to_vec()),
        ),
        bad(
            "lz4_reaches_before_its_pages",
            33,
            "packed",
            "a match with an offset of 256 at byte 1",
            &mut of(Packing::Lz4, 1, vec![0x14, b'x', 0, 1, 0x50, 1, 2, 3, 4, 5]),
        ),
        bad(
            "zstd_bomb",
            33,
            "packed",
            "64 pages of zeros where one page should be",
            &mut of(Packing::Zstd, 1, bomb),
        ),
        bad(
            "zstd_of_fewer_pages",
            33,
            "packed",
            "one page where two should be",
            &mut of(Packing::Zstd, 2, once.clone()),
        ),
        bad("zstd_cut", 33, "packed", "a frame that is cut", &mut of(Packing::Zstd, 2, damaged)),
        bad(
            "zstd_with_a_second_frame",
            33,
            "packed",
            "two frames",
            &mut of(Packing::Zstd, 1, twice),
        ),
        bad(
            "zstd_with_a_frame_to_skip",
            33,
            "packed",
            "a second frame that carries nothing",
            &mut of(Packing::Zstd, 1, skipped),
        ),
        bad(
            "zstd_without_a_size",
            33,
            "packed",
            "a frame that does not say its size, and a large window",
            &mut of(Packing::Zstd, 1, window),
        ),
        bad(
            "zstd_with_its_magic_number",
            33,
            "packed",
            "the four bytes that are left out",
            &mut of(Packing::Zstd, 1, [&magic[..], &once].concat()),
        ),
        bad(
            "xor_ends_early",
            33,
            "packed",
            "steps that do not reach the end",
            &mut on_template(b"\xfe\x1f\x01a"),
        ),
        bad(
            "xor_reaches_beyond",
            33,
            "packed",
            "steps that go beyond the end",
            &mut on_template(b"\xff\x1f\x02ab"),
        ),
        bad(
            "xor_goes_on",
            33,
            "packed",
            "a byte behind the last step",
            &mut on_template(b"\x80\x20\x00\x00"),
        ),
        bad(
            "xor_of_an_empty_step",
            33,
            "packed",
            "a step that leads nowhere",
            &mut on_template(b"\x01\x00\xff\x1f\x00"),
        ),
        bad(
            "xor_of_a_step_with_nothing_equal",
            33,
            "packed",
            "two steps that should be one",
            &mut on_template(b"\x01\x01a\x00\x01b\xfd\x1f\x00"),
        ),
        bad(
            "xor_with_a_number_too_long",
            33,
            "packed",
            "a number of two bytes that fits in one",
            &mut on_template(b"\x81\x00\x01a\xfe\x1f\x00"),
        ),
        bad(
            "exec_without_the_filter",
            33,
            "packed",
            "packed by a filter that the receiver does not have",
            &mut fill(Given::default(), &[0x11]),
        ),
        bad(
            "exec_of_more",
            33,
            "packed",
            "the filter makes two pages where one should be",
            &mut fill(exec, &[0x11, 0x12]),
        ),
    ]
}
