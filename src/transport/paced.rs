//! A limit of bytes a second for any output, in bursts of at most a tenth of a second.

use super::Drain;
use std::io::{self, IoSlice, Write};
use std::time::{Duration, Instant};

/// The part of a second that is written at once, as a divisor.
const BURSTS_A_SECOND: u64 = 10;

/// A clock that never goes back; tests have their own.
pub(super) trait Clock: Send {
    /// Time since some start.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&mut self, time: Duration);
}

/// The clock of the kernel, which the wall clock does not move.
pub(super) struct Monotonic(Instant);

impl Monotonic {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// An output that takes no more than `rate` bytes a second.
pub(super) struct Paced<D, C> {
    output: D,
    clock: C,
    /// Bytes a second, at least 1.
    rate: u64,
    /// When the bytes that were written so far are paid for. May be in the past: what was not used
    /// is saved, up to one burst.
    due: Duration,
}

impl<D: Drain, C: Clock> Paced<D, C> {
    pub(super) fn new(output: D, rate: u64, clock: C) -> Self {
        let due = clock.now();
        Self { output, clock, rate: rate.max(1), due }
    }

    /// How long `bytes` take.
    fn cost(&self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many of `bytes` may be written now, after having waited for them.
    fn grant(&mut self, bytes: usize) -> usize {
        let burst = usize::try_from(self.rate / BURSTS_A_SECOND).unwrap_or(usize::MAX).max(1);
        let granted = bytes.min(burst);
        let now = self.clock.now();
        self.due = self.due.max(now.saturating_sub(self.cost(burst)));
        let paid = self.due.saturating_add(self.cost(granted));
        if paid > now {
            self.clock.sleep(paid - now);
        }
        granted
    }

    fn charge(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        let bytes = written?;
        self.due = self.due.saturating_add(self.cost(bytes));
        Ok(bytes)
    }
}

impl<D: Drain, C: Clock> Write for Paced<D, C> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let granted = self.grant(from.len());
        let written = self.output.write(&from[..granted]);
        self.charge(written)
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = from.iter().position(|slice| !slice.is_empty()) else { return Ok(0) };
        let from = &from[first..];
        let total = from.iter().fold(0, |sum: usize, slice| sum.saturating_add(slice.len()));
        let granted = self.grant(total);
        // as many whole slices as fit, or a part of the first
        let mut sum = 0;
        let fits = |slice: &&IoSlice<'_>| {
            sum += slice.len();
            sum <= granted
        };
        let written = match from.iter().take_while(fits).count() {
            0 => self.output.write(&from[0][..granted]),
            whole => self.output.write_vectored(&from[..whole]),
        };
        self.charge(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<D: Drain, C: Clock> Drain for Paced<D, C> {} // no descriptor: it would pass the limit by

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Seconds that pass only by sleeping.
    #[derive(Clone, Default)]
    struct Hand(Arc<Mutex<Duration>>);

    impl Clock for Hand {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn sleep(&mut self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    /// Keeps the size of each write and when it came.
    #[derive(Default)]
    struct Log(Hand, Arc<Mutex<Vec<(Duration, usize)>>>);

    impl Write for Log {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            let taken = from.len().min(70_000);
            self.1.lock().unwrap().push((self.0.now(), taken));
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drain for Log {}

    fn run(rate: u64, sizes: &[usize]) -> (Duration, Vec<(Duration, usize)>) {
        let hand = Hand::default();
        let log = Log(hand.clone(), Arc::default());
        let writes = log.1.clone();
        let mut paced = Paced::new(log, rate, hand.clone());
        for &size in sizes {
            paced.write_all(&vec![0; size]).unwrap();
        }
        let writes = writes.lock().unwrap().clone();
        (hand.now(), writes)
    }

    #[test]
    fn what_is_written_takes_as_long_as_the_rate_says() {
        for rate in [1, 999, 1 << 20, 125_000_000] {
            let (took, writes) = run(rate, &[usize::try_from(rate).unwrap() * 3]);
            let off = took.abs_diff(Duration::from_secs(3));
            assert!(off < Duration::from_millis(1), "{rate}: {took:?}");
            assert!(writes.iter().all(|w| w.1 as u64 <= (rate / 10).max(1)), "{rate}");
        }
    }

    #[test]
    fn never_is_more_written_than_the_time_and_one_burst_allow() {
        let (_, writes) = run(1000, &[1, 99, 100, 500, 3, 297]);
        let mut sum = 0;
        for (at, size) in writes {
            sum += size as u64;
            assert!(u128::from(sum) * 1000 <= (at.as_millis() + 100) * 1000, "{at:?}: {sum}");
        }
    }

    #[test]
    fn a_pause_saves_one_burst_and_no_more() {
        let hand = Hand::default();
        let mut clock = hand.clone();
        let mut paced = Paced::new(Log(hand.clone(), Arc::default()), 1000, hand);
        clock.sleep(Duration::from_secs(60));
        paced.write_all(&[0; 100]).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(60), "the burst that was saved");
        paced.write_all(&[0; 1000]).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(61));
    }

    #[test]
    fn slices_are_kept_whole_where_they_fit() {
        let hand = Hand::default();
        let mut paced = Paced::new(Log(hand.clone(), Arc::default()), 1000, hand.clone());
        let (a, b) = ([0; 40], [0; 70]);
        let slices = [IoSlice::new(&[]), IoSlice::new(&a), IoSlice::new(&b)];
        assert_eq!(paced.write_vectored(&slices).unwrap(), 40);
        assert_eq!(paced.write_vectored(&[IoSlice::new(&[0; 200])]).unwrap(), 100);
        assert_eq!(paced.write_vectored(&[IoSlice::new(&[])]).unwrap(), 0);
        assert!(paced.raw().is_none());
    }
}
