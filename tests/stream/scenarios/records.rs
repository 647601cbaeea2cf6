//! Streams that are wrong in their header, a frame, or what one record says: reasons 1 to 19.

use super::{ANSWERS, ROUNDS, Scenario, TEMPLATES, bad, keyed, open, script, with_template};
use crate::given::{Given, memory};
use crate::script::{Script, bytes, number, packed, plain, zero};
use pageherd::wire::pages::{Op, Packing, PageOp};

const VM: u8 = 1;
const PAGES: u8 = 4;

/// The body of `vm`: flag, name, blocks, of any shape.
fn vm_body(flag: u8, name: &[u8], blocks: &[(&[u8], u64)]) -> Vec<u8> {
    let mut body = vec![flag, u8::try_from(name.len()).unwrap()];
    body.extend(name);
    body.extend(number(blocks.len() as u64));
    for (label, pages) in blocks {
        body.push(u8::try_from(label.len()).unwrap());
        body.extend(*label);
        body.extend(number(*pages));
    }
    body
}

/// The body of `pages` for VM 0 from page 0 on, with one operation and these bytes behind.
fn one_op(operation: &[u64], kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 1, kind];
    operation.iter().for_each(|&field| body.extend(number(field)));
    body.extend(payload);
    body
}

/// A stream whose last frame is a record of pages with this body.
fn pages_of(pages: u64, body: &[u8]) -> Script {
    let mut s = open(ROUNDS | TEMPLATES, pages);
    s.frame(PAGES, body);
    s
}

pub(super) fn frames() -> Vec<Scenario> {
    let wrong_mark = |bytes: [u8; 8]| {
        let mut s = script(0);
        for (at, byte) in bytes.into_iter().enumerate() {
            s.header_byte(at, byte);
        }
        s
    };
    let mut damaged = script(0);
    damaged.pieces[0].1[33] ^= 1;
    let mut version = script(0);
    version.pieces[0].1[8] = 2;
    let damaged_frame = |at: usize| {
        let mut s = open(0, 1);
        s.pages(0, 0, &[bytes(&[0x11])]).end(0, &[0x11]).seal();
        let last = s.pieces[3].1.len() - 1;
        s.pieces[3].1[if at == usize::MAX { last } else { at }] ^= 0x10;
        s
    };
    let mut spliced = open(0, 1);
    let mut other = Script::of_session(Given::default(), 0, 9);
    other.vm("a", 1).begin().pages(0, 0, &[bytes(&[0x66])]);
    let piece = other.pieces.last().unwrap().1.clone();
    spliced.raw("frame 2 pages of another session", &piece).end(0, &[0x11]).seal();
    spliced.next += 1;
    let reordered = |order: &[usize]| {
        let mut s = script(0);
        s.vm("a", 2).begin().pages(0, 0, &[zero(1)]).pages(0, 1, &[zero(1)]).end(0, &[0, 0]).seal();
        let pieces = order.iter().map(|&i| s.pieces[i].clone()).collect();
        s.pieces = pieces;
        s
    };
    let length = |length: u32| {
        let mut s = open(0, 1);
        s.raw(
            "head of frame 2",
            &[&length.to_le_bytes()[..], &[PAGES, 0, 0, 0, 2, 0, 0, 0]].concat(),
        );
        s
    };
    vec![
        bad(
            "mark_of_something_else",
            1,
            "foreign",
            "the first eight bytes are others",
            &mut wrong_mark(*b"QEVM\0\0\0\x03"),
        ),
        bad(
            "mark_of_answers",
            1,
            "foreign",
            "answers where a stream should be",
            &mut wrong_mark([0x89, b'P', b'H', b'A', 13, 10, 26, 10]),
        ),
        bad(
            "mark_after_text_mode",
            1,
            "foreign",
            "line ends were changed on the way",
            &mut wrong_mark([0x89, b'P', b'H', b'S', 10, 26, 10, 1]),
        ),
        bad("version_2", 2, "version", "a stream of a later version", script(0).header_byte(8, 2)),
        bad(
            "version_2_with_another_checksum",
            2,
            "version",
            "the version is looked at first",
            &mut version,
        ),
        bad("header_damaged", 3, "checksum", "a flipped bit in the session", &mut damaged),
        bad(
            "feature_6",
            4,
            "feature",
            "the first feature that is not defined",
            script(1 << 6).vm("a", 1),
        ),
        bad(
            "feature_63",
            4,
            "feature",
            "the last feature that is not defined",
            script(1 << 63 | ANSWERS).vm("a", 1),
        ),
        bad("header_page_size_0", 5, "wrong", "pages of one byte", script(0).header_byte(28, 0)),
        bad("header_page_size_13", 5, "wrong", "pages of 8 KiB", script(0).header_byte(28, 13)),
        bad(
            "header_hash_0",
            5,
            "wrong",
            "a hash that is not defined",
            script(0).header_byte(29, 0),
        ),
        bad(
            "header_hash_3",
            5,
            "wrong",
            "a hash that is not defined",
            script(0).header_byte(29, 3),
        ),
        bad(
            "header_key_check_without_key",
            5,
            "wrong",
            "a check of the key without a key",
            script(0).header_byte(48, 1),
        ),
        bad(
            "header_zero_after_hash",
            5,
            "wrong",
            "a field that is zero is not",
            script(0).header_byte(31, 1),
        ),
        bad(
            "header_zero_at_end",
            5,
            "wrong",
            "a field that is zero is not",
            script(0).header_byte(59, 1),
        ),
        bad(
            "key_here_only",
            6,
            "keying",
            "made without a key, read with one",
            script(0).vm("a", 1),
        )
        .given(keyed(b"secret")),
        bad(
            "key_there_only",
            6,
            "keying",
            "made with a key, read without one",
            Script::new(keyed(b"secret"), 0).vm("a", 1),
        )
        .given(Given::default()),
        bad(
            "key_of_another",
            6,
            "other-key",
            "made with another key",
            Script::new(keyed(b"secret"), 0).vm("a", 1),
        )
        .given(keyed(b"secret ")),
        bad(
            "length_above_limit",
            7,
            "too-long",
            "one byte more than a body can have",
            &mut length(1_114_113),
        ),
        bad(
            "length_of_4_gib",
            7,
            "too-long",
            "the largest length that can be said",
            &mut length(u32::MAX),
        ),
        bad(
            "frame_damaged_in_its_body",
            8,
            "checksum",
            "a flipped bit in a page",
            &mut damaged_frame(500),
        ),
        bad(
            "frame_damaged_in_its_type",
            8,
            "checksum",
            "a flipped bit in the type",
            &mut damaged_frame(4),
        ),
        bad(
            "frame_damaged_in_its_checksum",
            8,
            "checksum",
            "a flipped bit in the checksum",
            &mut damaged_frame(usize::MAX),
        ),
        bad(
            "frame_of_another_session",
            8,
            "checksum",
            "a good frame with the right number, of another session",
            &mut spliced,
        ),
        bad(
            "frame_dropped",
            9,
            "order",
            "a record of pages is missing",
            &mut reordered(&[0, 1, 2, 4, 5, 6]),
        ),
        bad(
            "frame_doubled",
            9,
            "order",
            "a record of pages stands twice",
            &mut reordered(&[0, 1, 2, 3, 3, 4, 5, 6]),
        ),
        bad(
            "frames_swapped",
            9,
            "order",
            "two records of pages are swapped",
            &mut reordered(&[0, 1, 2, 4, 3, 5, 6]),
        ),
        bad(
            "frame_number_from_1",
            9,
            "order",
            "the first frame is number 1",
            script(0).frame_with(VM, [0; 3], 1, &vm_body(0, b"a", &[(b"ram", 1)])),
        ),
        bad(
            "frame_with_flags",
            10,
            "wrong",
            "a flag that is not defined",
            script(0).frame_with(VM, [1, 0, 0], 0, &vm_body(0, b"a", &[(b"ram", 1)])),
        ),
        bad(
            "frame_with_a_field_not_zero",
            10,
            "wrong",
            "the two bytes after the flags",
            script(0).frame_with(VM, [0, 0, 1], 0, &vm_body(0, b"a", &[(b"ram", 1)])),
        ),
        bad("type_0", 11, "unknown", "a type that is never used", script(0).frame(0, b"")),
        bad(
            "type_14",
            11,
            "unknown",
            "the first type that is not defined",
            script(0).frame(14, b""),
        ),
        bad(
            "type_127",
            11,
            "unknown",
            "the last type that must be known",
            script(0).frame(127, b"x"),
        ),
    ]
}

pub(super) fn bodies() -> Vec<Scenario> {
    let vm = |body: &[u8]| {
        let mut s = script(0);
        s.frame(VM, body);
        s
    };
    let good = vm_body(0, b"a", &[(b"ram", 1)]);
    let mut blocks_0 = good.clone();
    blocks_0.truncate(3);
    let mut blocks_many = blocks_0.clone();
    blocks_0.push(0);
    blocks_many.extend(number(65_537));
    let long = [b'x'; 65];
    let mut abort = script(0);
    abort.frame(9, &[&number(1025)[..], &[b'x'; 1025]].concat());
    let mut many_vms = script(0);
    for i in 0..1025 {
        many_vms.vm(&format!("vm{i}"), 1);
    }
    let mut many_templates = Script::new(super::templates(), TEMPLATES);
    many_templates.vm("a", 1);
    for _ in 0..65 {
        many_templates.template(0);
    }
    let page = memory(&[0x11]);
    let most = (1 << 40) - 1;
    let chunk = packed(Packing::Zstd, 64, &memory(&[1; 64]));
    let mut ops = vec![chunk; 16];
    ops.push(bytes(&[1]));
    let more = |pages| plain(pages, Op::More);
    let two = || packed(Packing::Zstd, 1, &memory(&[1, 2]));
    let many_ops = [&[0u8, 0][..], &number(8193), &[1, 1].repeat(8193)].concat();
    let lying = |length: u64, payload: &[u8]| {
        let mut body = one_op(&[1], 6, &[]);
        body.push(1);
        body.extend(number(length));
        body.push(0);
        body.extend(payload);
        body
    };
    let packing = |kind: u8, packing: u8| {
        let mut body = one_op(&[1], kind, &[packing]);
        body.extend(number(3));
        if kind == 6 {
            body.push(0);
        } else if kind == 7 {
            body.extend([0, 0]);
        }
        body.extend(b"abc");
        let mut s = with_template(ROUNDS, 1);
        s.frame(PAGES, &body);
        s
    };
    vec![
        bad(
            "body_ends_in_a_name",
            12,
            "short",
            "a name that is longer than its record",
            &mut vm(&[0, 9, b'a']),
        ),
        bad("body_is_empty", 12, "short", "a VM without anything", &mut vm(&[])),
        bad(
            "end_without_a_digest",
            12,
            "short",
            "a field of fixed length that is cut",
            open(0, 1).pages(0, 0, &[zero(1)]).frame(6, &[0, 1, 2, 3]),
        ),
        bad(
            "number_without_its_end",
            12,
            "short",
            "the last byte says that another follows",
            open(0, 1).frame(5, &[0x81]),
        ),
        bad(
            "begin_with_a_body",
            12,
            "wrong",
            "a record that goes on after its end",
            script(0).vm("a", 1).frame(3, &[0]),
        ),
        bad(
            "vm_goes_on",
            12,
            "wrong",
            "a byte behind the last block",
            &mut vm(&[&good[..], &[0]].concat()),
        ),
        bad(
            "number_too_long",
            13,
            "wrong",
            "zero in two bytes",
            open(ROUNDS, 1).frame(5, &[0x80, 0]),
        ),
        bad(
            "number_beyond_64_bits",
            13,
            "wrong",
            "2^64",
            open(ROUNDS, 1).frame(5, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]),
        ),
        bad(
            "number_of_11_bytes",
            13,
            "wrong",
            "a number that does not end",
            open(ROUNDS, 1).frame(5, &[0x81; 11]),
        ),
        bad(
            "vm_flag_2",
            14,
            "wrong",
            "a flag of a VM that is not defined",
            &mut vm(&vm_body(2, b"a", &[(b"ram", 1)])),
        ),
        bad(
            "name_empty",
            14,
            "wrong",
            "a VM without a name",
            &mut vm(&vm_body(0, b"", &[(b"ram", 1)])),
        ),
        bad(
            "name_of_a_hidden_file",
            14,
            "wrong",
            "a name that begins with a dot",
            &mut vm(&vm_body(0, b".a", &[(b"ram", 1)])),
        ),
        bad(
            "name_of_a_path",
            14,
            "wrong",
            "a name with a slash",
            &mut vm(&vm_body(0, b"a/b", &[(b"ram", 1)])),
        ),
        bad(
            "name_too_long",
            14,
            "wrong",
            "a name of 65 letters",
            &mut vm(&vm_body(0, &long, &[(b"ram", 1)])),
        ),
        bad(
            "label_with_a_blank",
            14,
            "wrong",
            "a character that a label cannot have",
            &mut vm(&vm_body(0, b"a", &[(b"a b", 1)])),
        ),
        bad(
            "label_with_an_escape",
            14,
            "wrong",
            "a label that would steer a terminal",
            &mut vm(&vm_body(0, b"a", &[(b"\x1b[2J", 1)])),
        ),
        bad(
            "label_not_utf8",
            14,
            "wrong",
            "bytes that are no text",
            &mut vm(&vm_body(0, b"a", &[(b"\xff\xfe", 1)])),
        ),
        bad(
            "label_empty",
            14,
            "wrong",
            "a block without a label",
            &mut vm(&vm_body(0, b"a", &[(b"", 1)])),
        ),
        bad("text_too_long", 15, "wrong", "why it was given up, in 1025 letters", &mut abort),
        bad("blocks_0", 16, "wrong", "a VM without a block", &mut vm(&blocks_0)),
        bad(
            "blocks_65537",
            16,
            "wrong",
            "a VM that says it has too many blocks",
            &mut vm(&blocks_many),
        ),
        bad(
            "block_of_no_page",
            16,
            "wrong",
            "a block without a page",
            &mut vm(&vm_body(0, b"a", &[(b"ram", 0)])),
        ),
        bad(
            "block_too_large",
            16,
            "wrong",
            "a block of 2^40 pages",
            &mut vm(&vm_body(0, b"a", &[(b"ram", 1 << 40)])),
        ),
        bad(
            "blocks_too_large_together",
            16,
            "wrong",
            "a VM of 2^40 pages",
            &mut vm(&vm_body(0, b"a", &[(b"x", most), (b"y", 1)])),
        ),
        bad(
            "template_of_no_page",
            16,
            "wrong",
            "a template without a page",
            script(TEMPLATES).frame(2, &[&[1, b't', 0][..], &[0; 32]].concat()),
        ),
        bad(
            "template_too_large",
            16,
            "wrong",
            "a template of 2^64 - 1 pages",
            script(TEMPLATES).frame(2, &[&[1, b't'][..], &number(u64::MAX), &[0; 32]].concat()),
        ),
        bad("vms_1025", 16, "wrong", "more VMs than a stream can have", &mut many_vms),
        bad(
            "templates_65",
            16,
            "wrong",
            "more templates than a stream can have",
            &mut many_templates,
        ),
        bad(
            "round_beyond_32_bits",
            16,
            "wrong",
            "round 2^32",
            open(ROUNDS, 1).frame(5, &number(1 << 32)),
        ),
        bad(
            "pages_of_vm_1024",
            16,
            "wrong",
            "a number that no VM can have",
            open(0, 1).frame(PAGES, &[&number(1024)[..], &[0, 1, 1, 1]].concat()),
        ),
        bad(
            "end_of_vm_1024",
            16,
            "wrong",
            "a number that no VM can have",
            open(0, 1).frame(6, &[&number(1024)[..], &[0; 16]].concat()),
        ),
        bad(
            "template_64_used",
            16,
            "wrong",
            "a number that no template can have",
            &mut pages_of(1, &one_op(&[1, 64, 0], 5, &[])),
        ),
        bad(
            "operations_0",
            16,
            "wrong",
            "a record of pages without any",
            &mut pages_of(1, &[0, 0, 0]),
        ),
        bad(
            "operations_8193",
            16,
            "wrong",
            "more operations than a record can have",
            &mut pages_of(1, &many_ops),
        ),
        bad(
            "operation_for_no_page",
            16,
            "wrong",
            "zero pages",
            &mut pages_of(1, &one_op(&[0], 1, &[])),
        ),
        bad(
            "operation_for_2_pow_63_pages",
            16,
            "wrong",
            "more pages than a VM can have",
            &mut pages_of(1, &one_op(&[1 << 63], 1, &[])),
        ),
        bad(
            "pages_beyond_all_limits",
            16,
            "wrong",
            "pages from 2^64 - 1 on",
            &mut pages_of(1, &[&[0][..], &number(u64::MAX), &[1, 1, 1]].concat()),
        ),
        bad(
            "reference_beyond_all_limits",
            16,
            "wrong",
            "a reference to page 2^64 - 1",
            &mut pages_of(1, &one_op(&[1, 0, u64::MAX], 4, &[])),
        ),
        bad(
            "bytes_of_257_pages",
            16,
            "wrong",
            "more pages than an operation can have as bytes",
            &mut pages_of(300, &one_op(&[257], 3, &memory(&[1; 257]))),
        ),
        bad(
            "packed_65_pages",
            16,
            "wrong",
            "more pages than can be packed together",
            open(0, 65).pages(
                0,
                0,
                &[(
                    PageOp {
                        pages: 65,
                        op: Op::Packed { chunk: 65, with: Packing::Zstd, length: 3, base: None },
                    },
                    b"abc".to_vec(),
                )],
            ),
        ),
        bad(
            "packed_1_page_with_2_pow_64_more",
            16,
            "wrong",
            "a sum that does not fit in 64 bits",
            &mut pages_of(1, &[&[0, 0, 1, 6, 1, 1, 3][..], &number(u64::MAX), b"abc"].concat()),
        ),
        bad(
            "pages_1025_as_bytes",
            16,
            "wrong",
            "more pages than a record can have as bytes",
            open(0, 1025).pages(0, 0, &ops),
        ),
        bad(
            "operation_0",
            17,
            "wrong",
            "an operation that is not defined",
            &mut pages_of(1, &one_op(&[1], 0, &[])),
        ),
        bad(
            "operation_12",
            17,
            "wrong",
            "an operation that is not defined",
            &mut pages_of(1, &one_op(&[1], 12, &[])),
        ),
        bad("packing_0", 17, "wrong", "a packing that is not defined", &mut packing(6, 0)),
        bad("packing_5", 17, "wrong", "a packing that is not defined", &mut packing(6, 5)),
        bad("xor_without_a_base", 17, "wrong", "a packing that needs a base", &mut packing(6, 4)),
        bad("lz4_with_a_base", 17, "wrong", "a packing that takes no base", &mut packing(7, 1)),
        bad("exec_with_a_base", 17, "wrong", "a packing that takes no base", &mut packing(8, 3)),
        bad(
            "packed_in_nothing",
            18,
            "wrong",
            "packed bytes that are none",
            &mut pages_of(1, &lying(0, &[])),
        ),
        bad(
            "packed_in_a_page",
            18,
            "wrong",
            "packed bytes that are no fewer",
            &mut pages_of(1, &lying(4096, &page)),
        ),
        bad(
            "packed_in_2_pow_63_bytes",
            18,
            "wrong",
            "a length that lies",
            &mut pages_of(1, &lying(1 << 63, b"abc")),
        ),
        bad(
            "more_without_packed",
            18,
            "wrong",
            "the next of pages that were not packed",
            open(0, 1).pages(0, 0, &[more(1)]),
        ),
        bad(
            "more_than_packed",
            18,
            "wrong",
            "more pages than were packed together",
            open(0, 3).pages(0, 0, &[two(), more(2)]),
        ),
        bad(
            "fewer_than_packed",
            18,
            "wrong",
            "fewer pages than were packed together",
            open(0, 2).pages(0, 0, &[two(), zero(1)]),
        ),
        bad(
            "packed_within_packed",
            18,
            "wrong",
            "other pages are packed before the first are all there",
            open(0, 4).pages(0, 0, &[two(), two(), more(1), more(1)]),
        ),
        bad(
            "bytes_missing",
            19,
            "wrong",
            "a page of 4095 bytes",
            &mut pages_of(1, &one_op(&[1], 3, &page[1..])),
        ),
        bad(
            "bytes_too_many",
            19,
            "wrong",
            "a byte behind the last page",
            &mut pages_of(1, &one_op(&[1], 3, &[&page[..], &[0]].concat())),
        ),
        bad(
            "bytes_for_zero",
            19,
            "wrong",
            "bytes for an operation that has none",
            &mut pages_of(1, &one_op(&[1], 1, &[0])),
        ),
    ]
}
