//! The pure parts for themselves: how long a million pages take in each.

use divan::Bencher;
use divan::counter::ItemsCount;
use pageherd::abi::kpageflags::PageFlags;
use pageherd::analyze::fold::{Places, fold};
use pageherd::analyze::sighting::{Region, Sighting};
use pageherd::analyze::tally::{Ground, tally};
use pageherd::base::Pfn;
use pageherd::source::host::Frames;
use std::io;

fn main() {
    divan::main();
}

/// Frames that are all anonymous and mapped as often as they were seen.
struct Anonymous(u64);

impl Frames for Anonymous {
    fn counts(&self, pfns: &[Pfn], out: &mut Vec<u64>) -> io::Result<()> {
        out.clear();
        out.resize(pfns.len(), self.0);
        Ok(())
    }

    fn flags(&self, pfns: &[Pfn], out: &mut Vec<PageFlags>) -> io::Result<()> {
        out.clear();
        out.resize(pfns.len(), PageFlags::plain(true));
        Ok(())
    }
}

fn regions(vms: u32) -> Vec<Region> {
    let one =
        |vm| Region { vm, file: None, shared: false, may_be_merged: true, name: "anon".into() };
    (0..vms).map(one).collect()
}

/// A million sightings of frames that `vms` VMs share, in the order in which page tables give them.
fn sightings(vms: u32) -> Vec<Vec<Sighting>> {
    let frames = (1 << 20) / u64::from(vms);
    let frame = |i: u64| Pfn(i * 7919 % frames + 5000);
    (0..vms).map(|vm| (0..frames).map(|i| Sighting::new(frame(i), vm, false)).collect()).collect()
}

#[divan::bench(args = [1, 2, 20, 200])]
fn sort_and_group_a_million(bencher: Bencher<'_, '_>, vms: u32) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let regions = regions(vms);
    bencher.counter(ItemsCount::new(1usize << 20)).with_inputs(|| sightings(vms)).bench_values(
        |parts| {
            let frames = Anonymous(u64::from(vms));
            pool.install(|| {
                let mut places = Places::new(&regions);
                let folded = fold(parts, &mut places);
                let ground = Ground { regions: &regions, places: &places, template: None };
                tally(folded, ground, &frames).expect("no error")
            })
        },
    );
}
