//! Cases in rounds, and what is told of them.

/// Of one move.
#[derive(Default)]
pub(crate) struct Measure {
    pub(crate) seconds: f64,
    /// Through the relay; 0 where there is none.
    pub(crate) bytes: u64,
}

/// A case.
pub(crate) type Run<'a> = Box<dyn FnMut() -> Measure + 'a>;

/// What was measured.
pub(crate) struct Table {
    names: Vec<&'static str>,
    /// By case, by round.
    all: Vec<Vec<Measure>>,
}

/// Runs each case once a round; the first round is dropped.
pub(crate) fn rounds(count: usize, mut cases: Vec<(&'static str, Run<'_>)>) -> Table {
    let mut all: Vec<Vec<Measure>> = cases.iter().map(|_| Vec::new()).collect();
    for round in 0..count {
        for (all, (_, case)) in all.iter_mut().zip(&mut cases) {
            let measure = case();
            if round > 0 {
                all.push(measure);
            }
        }
    }
    Table { names: cases.into_iter().map(|(name, _)| name).collect(), all }
}

impl Table {
    /// Medians; `memory` is what a case moves, in bytes.
    pub(crate) fn show(&self, memory: u64) {
        for (name, all) in self.names.iter().zip(&self.all) {
            let time = median(all.iter().map(|m| m.seconds));
            let bytes = median(all.iter().map(|m| m.bytes as f64));
            let gib = memory as f64 / f64::from(1 << 30) / time;
            print!("      {name:48} {time:7.3} s  {gib:5.2} GiB of guest/s");
            if bytes > 0.0 {
                print!("  {:8.2} MiB sent", bytes / f64::from(1 << 20));
            }
            println!();
        }
    }

    fn ratio(&self, what: &str, a: usize, b: usize, of: fn(&Measure) -> f64) {
        let ratios = self.all[a].iter().zip(&self.all[b]).map(|(a, b)| of(a) / of(b));
        println!("   {what}: {:.3}", median(ratios));
    }

    /// The time of case `a` as a share of that of case `b`.
    pub(crate) fn time(&self, what: &str, a: usize, b: usize) {
        self.ratio(&format!("time, {what}"), a, b, |m| m.seconds);
    }

    /// Likewise bytes.
    pub(crate) fn bytes(&self, what: &str, a: usize, b: usize) {
        self.ratio(&format!("bytes, {what}"), a, b, |m| m.bytes as f64);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
