//! Streams cut, chopped, damaged and written at random; and what the emitter refuses.

use super::*;
use crate::qemu::emit::EmitError;
use proptest::prelude::*;

/// Numbers that a damage puts in: limits and what lies beside them.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![
            0, 1, 2, 3, 4, 5, 7, 8, 0x10, 0x22, 0x28, 0x7e, 0x7f, 0x80, 0xff
        ])
    ];
    prop::collection::vec((any::<prop::sample::Index>(), byte), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_pieces_and_stops_change_nothing(
        which in 0..REAL.len(),
        sizes in prop::collection::vec(1usize..9000, 1..40),
        stop: bool,
    ) {
        let mut sizes = sizes.into_iter().cycle();
        let pieces = parse_by(REAL[which], || sizes.next().unwrap(), stop);
        let whole = parse(REAL[which]);
        prop_assert!(pieces.0 == whole.0);
        prop_assert_eq!(pieces.2, whole.2);
    }

    /// Also that what comes out is what went in, up to where it is refused (`parse_by`), and that
    /// the verdict does not depend on the pieces.
    #[test]
    fn damage_never_makes_it_panic_or_lose_bytes(
        which in 0..REAL.len(),
        damage in damage(),
        in_head: bool,
        size in 1usize..5000,
    ) {
        let mut stream = REAL[which].to_vec();
        let among = if in_head { 300 } else { stream.len() };
        for (index, byte) in damage {
            stream[index.index(among)] = byte;
        }
        let whole = parse(&stream);
        let pieces = parse_by(&stream, || size, false);
        prop_assert_eq!(&pieces.2, &whole.2);
        prop_assert_eq!(&pieces.0.opaque, &whole.0.opaque);
        prop_assert_eq!(&pieces.0.pages, &whole.0.pages);
        if whole.2.is_ok() {
            prop_assert!(whole.0.bytes == stream);
        }
    }

    #[test]
    fn anything_behind_the_first_bytes_is_borne(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let configured = Hand::configured().bytes(&bytes).0;
        let part = Hand::part().bytes(&bytes).0;
        for stream in [bytes, configured, part] {
            let whole = parse(&stream);
            prop_assert_eq!(parse_by(&stream, || 1, true).2, whole.2);
        }
    }

    /// Whatever order records are written in: their block is the one that was meant.
    #[test]
    fn what_is_written_is_read(records in prop::collection::vec((0u32..2, 0u64..2, any::<bool>(), any::<bool>()), 0..40)) {
        let mut emitter = Emitter::new(["a", "b"]).unwrap();
        let mut stream = Hand::part().0;
        for &(block, page, content, again) in &records {
            if again {
                emitter.name_again();
            }
            if content {
                emitter.page(block, page, &[7; PAGE], &mut stream).unwrap();
            } else {
                emitter.zero(block, page, &mut stream).unwrap();
            }
        }
        let json = "{\"page_size\": 4096}";
        let stream = Hand(stream).close().described(json).0;
        let (seen, _, end) = parse(&stream);
        prop_assert_eq!(end, Ok(End::Described));
        prop_assert_eq!(seen.bytes, stream);
        let meant: Vec<_> = records.iter().map(|record| (record.0, record.1, record.2)).collect();
        prop_assert_eq!(seen.pages, meant);
    }
}

#[test]
fn a_record_that_no_stream_can_have_is_not_written() {
    let (mut emitter, mut out) = (Emitter::new(["a"]).unwrap(), Vec::new());
    assert_eq!(emitter.zero(1, 0, &mut out), Err(EmitError::NoBlock { block: 1, blocks: 1 }));
    assert_eq!(emitter.head(0, 1 << 52, &mut out), Err(EmitError::Page { page: 1 << 52 }));
    assert!(out.is_empty() && emitter.block().is_none());
    emitter.head(0, (1 << 52) - 1, &mut out).unwrap();
    assert_eq!(out, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0, 0x08, 1, b'a']);
    assert_eq!(Emitter::new([""]).unwrap_err(), EmitError::Name { len: 0 });
    assert_eq!(Emitter::new(["n".repeat(256)]).unwrap_err(), EmitError::Name { len: 256 });
}
