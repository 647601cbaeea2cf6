//! How fast the transport takes bytes, as seen by who writes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes below which a write says nothing of the speed.
const LEAST: usize = 1 << 16;

/// A moving mean, in picoseconds a byte; 0 while it is unknown.
#[derive(Debug, Default)]
pub struct Link(AtomicU64);

impl Link {
    /// `bytes` were taken in that time.
    pub fn took(&self, bytes: usize, time: Duration) {
        if bytes < LEAST {
            return;
        }
        let now = u64::try_from(time.as_nanos() * 1000 / bytes as u128).unwrap_or(u64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        let mean = if before == 0 { now } else { before - before / 4 + now / 4 };
        self.0.store(mean.max(1), Ordering::Relaxed);
    }

    /// Nanoseconds for a byte; `None` while that is unknown.
    pub fn nanos_a_byte(&self) -> Option<f64> {
        let picos = self.0.load(Ordering::Relaxed);
        (picos > 0).then_some(picos as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_the_link() {
        let link = Link::default();
        assert_eq!(link.nanos_a_byte(), None);
        link.took(100, Duration::from_secs(1));
        assert_eq!(link.nanos_a_byte(), None, "small writes say nothing");
        link.took(1 << 20, Duration::from_millis(1));
        let fast = link.nanos_a_byte().unwrap();
        assert!((0.9..1.0).contains(&fast), "{fast}");
        for _ in 0..30 {
            link.took(1 << 20, Duration::from_millis(10));
        }
        assert!(link.nanos_a_byte().unwrap() > 9.0);
    }
}
