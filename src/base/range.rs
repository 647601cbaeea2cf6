//! Half-open ranges of pages.

use super::addr::Hva;

/// Pages `start..end`, numbered from the address zero of their space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageRange {
    /// First page.
    pub start: u64,
    /// The page after the last one; never below `start`.
    pub end: u64,
}

impl PageRange {
    /// The range `start..end`; `None` if it would be turned round.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end { Some(Self { start, end }) } else { None }
    }

    /// The `pages` pages from `start` on, cut at the end of the number space.
    pub const fn of(start: u64, pages: u64) -> Self {
        Self { start, end: start.saturating_add(pages) }
    }

    /// The whole pages that hold the addresses `start..end`.
    pub fn covering(start: Hva, end: Hva) -> Option<Self> {
        let last = end.0.checked_add(super::PAGE_SIZE - 1)? >> super::addr::PAGE_SHIFT;
        Self::new(start.page(), last)
    }

    /// Number of pages.
    pub const fn pages(self) -> u64 {
        self.end - self.start
    }

    /// No page at all?
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// What both ranges hold; empty where they do not meet.
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// The first page's address.
    pub const fn address(self) -> Hva {
        Hva::of_page(self.start)
    }

    /// The range in pieces of at most `pages` pages; pieces end on multiples of `pages`, so that a
    /// piece that is a power of two long holds whole huge pages.
    pub fn pieces(self, pages: u64) -> impl Iterator<Item = PageRange> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let end = (at / pages + 1).saturating_mul(pages).min(self.end);
            let piece = Self { start: at, end };
            at = end;
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_cannot_be_turned_round() {
        assert_eq!(PageRange::new(2, 1), None);
        assert_eq!(PageRange::covering(Hva(1), Hva(4097)), PageRange::new(0, 2));
        assert_eq!(PageRange::covering(Hva(1), Hva(u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once(start in 0u64..10_000, len in 0u64..10_000, piece in 1u64..2_000) {
            let range = PageRange::of(start, len);
            let mut at = start;
            for p in range.pieces(piece) {
                prop_assert_eq!(p.start, at);
                prop_assert!(!p.is_empty() && p.pages() <= piece);
                at = p.end;
            }
            prop_assert_eq!(at, range.end);
        }

        #[test]
        fn what_two_ranges_share_is_in_both(a in 0u64..100, b in 0u64..100, c in 0u64..100, d in 0u64..100) {
            let (x, y) = (PageRange::of(a, b), PageRange::of(c, d));
            let both = x.intersect(y);
            for page in 0..220 {
                let inside = |r: PageRange| page >= r.start && page < r.end;
                prop_assert_eq!(inside(both), inside(x) && inside(y));
            }
        }
    }
}
