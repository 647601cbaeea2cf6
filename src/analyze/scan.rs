//! The whole way from VMs to groups.

use super::collect::{Found, Tally, Window, collect};
use super::fold::{Places, fold};
use super::huge;
use super::sighting::{Region, Sighting, Task, plan};
use super::tally::{FrameTally, Ground, Share, Sharers, tally};
use super::verify::{self, Second, Verify};
use crate::abi::vma::FileId;
use crate::base::Pfn;
use crate::base::mechanism::ByMechanism;
use crate::source::host::Frames;
use crate::source::{Fate, PageSource, Vm};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io;

/// Bytes that a kept sighting can cost: eight of its own and sixteen of a run of one page.
pub const BYTES_PER_SIGHTING: u64 = 24;

/// The least that `memory` may be: one wave of work on one thread.
pub const LEAST_MEMORY: u64 = 8 << 20;

/// How to scan.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads; 0 is one for each processor.
    pub threads: usize,
    /// Bound on the bytes kept for pages that are not exclusive; the page tables are read once more
    /// for every part that does not fit.
    pub memory: Option<u64>,
    /// What is read a second time.
    pub verify: Verify,
    /// A file whose pages are told apart.
    pub template: Option<FileId>,
    /// Keep the sightings, for questions about single pages.
    pub keep_sightings: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 0,
            memory: None,
            verify: Verify::Auto,
            template: None,
            keep_sightings: false,
        }
    }
}

/// Why there is no scan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// More regions than can be numbered.
    #[error(
        "the targets have more than {} distinct mappings: scan fewer at once",
        super::sighting::MAX_REGIONS
    )]
    TooManyRegions,
    /// The kernel's tables of frames cannot be read.
    #[error("the kernel's tables of page frames cannot be read")]
    Frames(#[source] io::Error),
    /// A page table cannot be read, although the process lives.
    #[error("the page table of {vm} cannot be read")]
    PageTable {
        /// The VM.
        vm: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No threads can be started.
    #[error("no threads can be started")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// Too little memory allowed.
    #[error("--memory must be at least {} MiB", LEAST_MEMORY >> 20)]
    TooLittleMemory,
}

/// What is known of one VM after a scan.
#[derive(Clone, Debug)]
pub struct VmScan {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: Option<i32>,
    /// What it is.
    pub what: String,
    /// What became of it; its counts are all zero unless it lives.
    pub fate: Fate,
    /// What the second look found.
    pub second: Second,
}

/// Counts of one region.
#[derive(Clone, Copy, Default, Debug)]
pub struct RegionScan {
    /// Pages as first seen.
    pub tally: Tally,
    /// Of those that are not exclusive.
    pub share: Share,
}

/// What a scan found.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The VMs, in the order of the targets.
    pub vms: Vec<VmScan>,
    /// The regions, those of one VM together.
    pub regions: Vec<Region>,
    /// Counts, by region.
    pub counts: Vec<RegionScan>,
    /// Frames by their sharers; exclusive frames and the zero page are not among them.
    pub groups: BTreeMap<Sharers, ByMechanism>,
    /// How much was read again.
    pub verified: Verify,
    /// How often the page tables were read.
    pub passes: u32,
    /// The file whose pages were told apart.
    pub template: Option<FileId>,
    /// Every sighting, sorted by frame, where they were to be kept.
    pub sightings: Vec<Sighting>,
    /// Which regions the places of sightings are.
    pub places: Places,
    /// Pages that the kernel calls exclusive have sightings too ([`super::huge`]).
    pub exclusive_is_open: bool,
}

/// Scans the VMs. `progress` is told of pages as they are done, from several threads.
pub fn scan(
    vms: &[Vm],
    frames: &dyn Frames,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Scan, ScanError> {
    if options.memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
        return Err(ScanError::TooLittleMemory);
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(ScanError::Threads)?;
    // What a VM shared with one that ended meanwhile is no longer so: then the others are scanned
    // once more, without it.
    let mut gone = vec![false; vms.len()];
    loop {
        let (regions, mut tasks) = plan(vms).ok_or(ScanError::TooManyRegions)?;
        tasks.retain(|task| !gone[task.vm as usize]);
        let mut state = State::new(vms, regions, options, gone.clone());
        pool.install(|| state.all_passes(&tasks, frames, progress))?;
        let scan = state.finish();
        let ended: Vec<bool> = scan.vms.iter().map(|vm| vm.fate != Fate::Alive).collect();
        if ended == gone {
            return Ok(scan);
        }
        gone = ended;
    }
}

struct State<'a> {
    vms: &'a [Vm],
    options: &'a Options,
    regions: Vec<Region>,
    tallies: Vec<Tally>,
    frames: FrameTally,
    gone: Vec<bool>,
    seconds: Vec<Second>,
    verified: Verify,
    passes: u32,
    places: Places,
    owed: bool,
    kept: Vec<Sighting>,
}

impl<'a> State<'a> {
    fn new(vms: &'a [Vm], regions: Vec<Region>, options: &'a Options, gone: Vec<bool>) -> Self {
        let places = Places::new(&regions);
        let tallies = vec![Tally::default(); regions.len()];
        let frames =
            FrameTally { regions: vec![Share::default(); regions.len()], ..Default::default() };
        Self {
            vms,
            options,
            regions,
            tallies,
            frames,
            gone,
            seconds: vec![Second::default(); vms.len()],
            verified: options.verify,
            passes: 0,
            places,
            owed: false,
            kept: Vec::new(),
        }
    }

    fn all_passes(
        &mut self,
        tasks: &[Task],
        frames: &dyn Frames,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ScanError> {
        let mut window = Window::ALL;
        loop {
            let before = self.unrest(frames);
            let mut found = self.read(tasks, &mut window, progress)?;
            if self.passes == 0 {
                for (region, tally) in found.iter().flat_map(|f| &f.tallies) {
                    self.tallies[*region as usize].merge(tally);
                }
            }
            self.passes += 1;
            self.second_look(&mut found, before == self.unrest(frames))?;
            self.owed |= huge::settle(&mut found, &mut self.tallies, window, frames)
                .map_err(ScanError::Frames)?;
            let sightings = fold(living(found, &self.gone), &mut self.places);
            let ground = Ground {
                regions: &self.regions,
                places: &self.places,
                template: self.options.template,
            };
            let (pass, sorted) = tally(sightings, ground, frames).map_err(ScanError::Frames)?;
            self.frames.merge(pass);
            if self.options.keep_sightings {
                self.kept.extend(sorted.into_iter().flatten());
            }
            if window.end == Window::ALL.end {
                return Ok(());
            }
            window = Window { start: window.end, end: Window::ALL.end };
        }
    }

    /// One reading of all page tables. Where memory is limited the window is narrowed, whenever it
    /// holds too much, to the lower half of the frames that it holds.
    fn read(
        &mut self,
        tasks: &[Task],
        window: &mut Window,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Found>, ScanError> {
        let wave = match self.options.memory {
            None => tasks.len().max(1),
            Some(_) => rayon::current_num_threads(),
        };
        let most = self.options.memory.map(|bytes| bytes / BYTES_PER_SIGHTING);
        let mut all: Vec<Found> = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(wave) {
            let frozen = *window;
            let read = tasks.par_iter().map(|task| {
                let vm = &self.vms[task.vm as usize];
                let found = collect(task, vm.source.as_ref(), frozen);
                progress(task.pieces.iter().map(|(piece, _)| piece.pages()).sum());
                found.or_else(|source| gone_or_failed(vm, task.vm, source))
            });
            all.extend(read.collect::<Result<Vec<_>, _>>()?);
            while let Some(end) = most.and_then(|most| narrower(&all, most)) {
                window.end = end;
                all.par_iter_mut().for_each(|found| found.narrow(end));
            }
        }
        for found in all.iter().filter(|found| found.gone) {
            self.gone[found.vm as usize] = true;
        }
        Ok(all)
    }

    fn second_look(&mut self, found: &mut [Found], calm: bool) -> Result<(), ScanError> {
        let few = found.iter().map(|f| f.sightings.len()).sum::<usize>() <= verify::FEW;
        if self.verified == Verify::Auto && !calm {
            self.verified = Verify::Full;
        }
        if self.verified == Verify::Auto {
            let seconds = self.look_again(found, verify::sample)?;
            if seconds.iter().any(|second| second.unstable() > 0) {
                self.verified = Verify::Full;
            } else if !few {
                self.add(found, &seconds);
                return Ok(());
            }
        }
        if self.verified != Verify::None {
            let seconds = self.look_again(found, verify::full)?;
            self.add(found, &seconds);
        }
        Ok(())
    }

    /// Page faults of all targets, and what the kernel has moved: while this stands still, no frame
    /// goes from one to another.
    fn unrest(&self, frames: &dyn Frames) -> u64 {
        let faults = self.vms.iter().map(|vm| vm.source.faults());
        faults.fold(frames.moves(), u64::wrapping_add)
    }

    /// Has every task's pages read again, in parallel.
    fn look_again(
        &self,
        found: &mut [Found],
        look: fn(&mut Found, &dyn PageSource) -> io::Result<Second>,
    ) -> Result<Vec<Second>, ScanError> {
        found
            .par_iter_mut()
            .map(|f| {
                let vm = &self.vms[f.vm as usize];
                let failed = |source| ScanError::PageTable { vm: vm.name.clone(), source };
                look(f, vm.source.as_ref()).map_err(failed)
            })
            .collect()
    }

    fn add(&mut self, found: &[Found], seconds: &[Second]) {
        for (found, second) in found.iter().zip(seconds) {
            self.seconds[found.vm as usize].merge(second);
        }
    }

    fn finish(self) -> Scan {
        let vms = self.vms.iter().zip(&self.gone).zip(&self.seconds);
        let vms = vms.map(|((vm, &gone), &second)| VmScan {
            name: vm.name.clone(),
            pid: vm.pid,
            what: vm.what.clone(),
            fate: match vm.source.fate() {
                Fate::Alive if gone => Fate::Exited,
                fate => fate,
            },
            second,
        });
        let counts = self.tallies.iter().zip(&self.frames.regions);
        Scan {
            vms: vms.collect(),
            counts: counts.map(|(&tally, &share)| RegionScan { tally, share }).collect(),
            regions: self.regions,
            groups: self.frames.groups.into_iter().collect(),
            verified: self.verified,
            passes: self.passes,
            template: self.options.template,
            sightings: self.kept,
            places: self.places,
            exclusive_is_open: self.owed,
        }
    }
}

/// A read that fails because the process ended is no failure of the scan.
fn gone_or_failed(vm: &Vm, index: u32, source: io::Error) -> Result<Found, ScanError> {
    if vm.source.fate() == Fate::Alive {
        return Err(ScanError::PageTable { vm: vm.name.clone(), source });
    }
    Ok(Found { vm: index, gone: true, ..Found::default() })
}

/// Where to end the window so that half of what is held remains; `None` while it fits.
fn narrower(all: &[Found], most: u64) -> Option<Pfn> {
    let held: usize = all.iter().map(|found| found.sightings.len()).sum();
    if held as u64 <= most {
        return None;
    }
    // One in 256 tells the median well enough.
    let mut some: Vec<Pfn> =
        all.iter().flat_map(|f| f.sightings.iter().step_by(256)).map(|s| s.pfn()).collect();
    some.sort_unstable();
    let (first, middle) = (*some.first()?, some[some.len() / 2]);
    // One frame that is mapped more often than fits, as the zero page can be, cannot be divided:
    // then it stays, and all others go.
    let next = || some.iter().copied().find(|&pfn| pfn > first);
    if middle > first { Some(middle) } else { next() }
}

/// The sightings of VMs that live, in the order of the VMs.
fn living(found: Vec<Found>, gone: &[bool]) -> Vec<Vec<Sighting>> {
    found
        .into_iter()
        .filter(|f| !gone[f.vm as usize])
        .map(|Found { sightings, .. }| sightings)
        .filter(|sightings| !sightings.is_empty())
        .collect()
}
