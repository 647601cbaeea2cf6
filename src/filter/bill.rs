//! What each filter did and what it cost; and when one is turned off because the link waits for it and
//! gains less by it.

/// Pages after which a filter is judged: 32 MiB.
const WINDOW: u64 = 8192;
/// Windows for which a filter that lost time stays off before it is tried again.
const REST: u64 = 16;
/// Windows in a row in which a filter that does not hold up the link may gain nothing: 256 MiB. What it
/// learns costs memory at the far end too.
const PATIENCE: u64 = 8;
/// A filter that takes less than this part of the time that the link takes for the same pages loses
/// none: it works beside the link, but for pages that others settle or pack. What it learns from pages
/// that it cannot settle may pay later.
const PART: f64 = 0.125;

/// The account of one filter.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Account {
    /// Its name.
    pub filter: String,
    /// Pages that it was shown.
    pub looked_at: u64,
    /// Pages that it settled, or packed.
    pub pages: u64,
    /// Bytes that did not have to be sent because of it.
    pub saved_bytes: u64,
    /// Time that it took, in nanoseconds of one thread.
    pub nanos: u64,
    /// Pages for which it was turned off because it lost time.
    pub off_pages: u64,
}

/// An account that is being kept, and whether its filter is on.
#[derive(Clone, Debug)]
pub struct Meter {
    /// What there is so far.
    pub account: Account,
    /// It is never turned off.
    always: bool,
    window: Window,
    /// The window before.
    last: Window,
    /// Windows that may still go by without a gain.
    patience: u64,
    rests: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    pages: u64,
    saved: u64,
    nanos: u64,
}

impl Window {
    /// Does it keep a link of so many nanoseconds a byte waiting?
    fn holds_up(&self, link: f64) -> bool {
        self.nanos as f64 > (self.pages * super::PAGE as u64) as f64 * link * PART
    }
}

impl Meter {
    /// For the filter `name`; `always`: it is never turned off.
    pub fn new(name: &str, always: bool) -> Self {
        let account = Account { filter: name.to_owned(), ..Account::default() };
        let (window, last) = (Window::default(), Window::default());
        Self { account, always, window, last, patience: PATIENCE, rests: 0 }
    }

    /// Is it to be asked for the next `pages` pages? Counts them where it is not. `link`: as of
    /// [`Self::judge`]; one that fills its buffers looks faster than it is at first.
    pub fn is_on(&mut self, pages: u64, link: Option<f64>) -> bool {
        let holds_up = link.is_none_or(|link| self.last.holds_up(link));
        if self.rests == 0 || self.patience > 0 && !holds_up {
            self.rests = 0;
            return true;
        }
        self.account.off_pages += pages;
        self.rests = self.rests.saturating_sub(pages);
        self.rests == 0
    }

    /// It was shown `looked_at` pages, settled `pages`, which saved `saved` bytes, and took `nanos`.
    pub const fn add(&mut self, looked_at: u64, pages: u64, saved: u64, nanos: u64) {
        self.account.looked_at += looked_at;
        self.account.pages += pages;
        self.account.saved_bytes += saved;
        self.account.nanos += nanos;
        self.window.pages += looked_at;
        self.window.saved += saved;
        self.window.nanos += nanos;
    }

    /// Turns it off if what it saved in the last window would have been sent in less time than it
    /// took, and it holds up the link or has been so for long. `link`: nanoseconds that the transport
    /// takes for a byte.
    pub fn judge(&mut self, link: f64) -> bool {
        if self.always || self.window.pages < WINDOW {
            return false;
        }
        self.last = std::mem::take(&mut self.window);
        let gains = self.last.saved as f64 * link >= self.last.nanos as f64;
        self.patience = if gains { PATIENCE } else { self.patience.saturating_sub(1) };
        let loses = !gains && (self.last.holds_up(link) || self.patience == 0);
        if loses {
            self.rests = WINDOW * REST;
        }
        loses
    }
}

/// How a codec does, in nanoseconds and bytes per byte that it is given.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// Nanoseconds of one thread for a byte.
    pub nanos: f64,
    /// Bytes that come out for a byte.
    pub ratio: f64,
}

impl Sample {
    /// With what was known before, which weighs three times as much.
    #[must_use]
    pub fn mixed_with(self, before: Option<Self>) -> Self {
        before.map_or(self, |before| Self {
            nanos: (self.nanos + 3.0 * before.nanos) / 4.0,
            ratio: (self.ratio + 3.0 * before.ratio) / 4.0,
        })
    }
}

/// Which of several codecs moves a byte soonest through `threads` packers and then through a link of
/// `link` nanoseconds a byte, which work side by side; `None` where none is faster than the bytes
/// as they are.
pub fn best(samples: &[Option<Sample>], threads: usize, link: f64) -> Option<usize> {
    let time = |sample: &Sample| (sample.nanos / threads.max(1) as f64).max(sample.ratio * link);
    let all = samples.iter().enumerate();
    let all = all.filter_map(|(i, sample)| Some((i, time(sample.as_ref()?))));
    all.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|&(_, time)| time < link).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_loses_time_rests_and_is_tried_again() {
        let mut meter = Meter::new("same", false);
        assert!(meter.is_on(WINDOW, None));
        meter.add(WINDOW, 1, 4096, 8_000_000);
        assert!(meter.judge(1.0));
        assert!(!meter.is_on(WINDOW, Some(1.0)));
        assert!(!meter.is_on(WINDOW * (REST - 2), Some(1.0)));
        assert!(meter.is_on(WINDOW, Some(1.0)), "tried again");
        meter.add(WINDOW, WINDOW, WINDOW * 4096, 1_000_000);
        assert!(!meter.judge(1.0));
        assert!(meter.is_on(1, None));
        assert_eq!(meter.account.pages, WINDOW + 1);
    }

    #[test]
    fn one_that_does_not_hold_up_the_link_goes_on_learning() {
        // a file that comes for the first time, its pages hashed in 1.5 us each
        let mut meter = Meter::new("same", false);
        for (link, turned_off) in [(8.0, false), (1.0, true)] {
            meter.add(WINDOW, 0, 0, WINDOW * 1500);
            assert_eq!(meter.judge(link), turned_off, "{link} ns a byte");
        }
        assert!(!meter.is_on(1, Some(1.0)));
        assert!(meter.is_on(1, Some(8.0)), "the link is slower than it looked");
    }

    #[test]
    fn one_that_never_finds_anything_rests_on_any_link() {
        let mut meter = Meter::new("same", false);
        let mut empty = || {
            meter.add(WINDOW, 0, 0, WINDOW * 1500);
            meter.judge(8.0)
        };
        assert!((1..PATIENCE).all(|_| !empty()));
        assert!(empty());
        assert!(!meter.is_on(WINDOW, Some(8.0)), "however slow the link");
        assert!(meter.is_on(WINDOW * REST, Some(8.0)), "tried again");
        meter.add(WINDOW, 0, 0, WINDOW * 1500);
        assert!(meter.judge(8.0), "for one window");
        assert!(meter.is_on(WINDOW * REST, Some(8.0)));
        meter.add(WINDOW, WINDOW / 2, WINDOW / 2 * 4096, WINDOW * 1500);
        assert!(!meter.judge(8.0), "it finds something now");
    }

    #[test]
    fn one_that_keeps_memory_shared_is_never_turned_off() {
        let mut meter = Meter::new("shared", true);
        meter.add(WINDOW, 0, 0, u64::from(u32::MAX));
        assert!(!meter.judge(0.1) && meter.is_on(1, None));
    }

    #[test]
    fn the_best_codec_depends_on_the_link() {
        let lz4 = Some(Sample { nanos: 0.5, ratio: 0.7 });
        let zstd = Some(Sample { nanos: 1.0, ratio: 0.4 });
        assert_eq!(best(&[lz4, zstd], 2, 0.2), None, "a fast pipe takes bytes as they are");
        assert_eq!(best(&[lz4, zstd], 2, 0.45), Some(0));
        assert_eq!(best(&[lz4, zstd], 2, 8.0), Some(1), "a gigabit");
        assert_eq!(best(&[None, None], 2, 8.0), None);
    }
}
