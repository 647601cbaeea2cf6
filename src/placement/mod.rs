//! Files in which the commands keep and exchange what they know of pages. Pure: text and bytes in,
//! facts out.
//!
//! [`scanfile`] is the record of a scan, for people, pipes and `memscan diff`. [`map`] is the
//! placement map: for each page of each block, its place. Both are described in `docs/FORMAT.md`.

pub mod herd;
pub mod ledger;
pub mod map;
pub mod scanfile;

#[cfg(test)]
mod damage {
    /// Every prefix of a whole file and every single flipped bit must be refused.
    pub(super) fn is_refused(good: &[u8], accepts: impl Fn(&[u8]) -> bool) {
        assert!(accepts(good));
        for end in 0..good.len() {
            assert!(!accepts(&good[..end]), "prefix of {end} bytes");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << bit;
                assert!(!accepts(&bad), "byte {at}, bit {bit}");
            }
        }
    }
}
