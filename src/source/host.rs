//! What the host knows beside the VMs: its frames, KSM, its NUMA nodes.

use crate::abi::kpageflags::PageFlags;
use crate::abi::ksm::Ksm;
use crate::abi::node::Nodes;
use crate::base::Pfn;
use crate::sys::kpage::KPage;
use crate::sys::ksm::KsmUnknown;
use crate::sys::{caps, ksm, numa, vmstat};
use std::io;

/// What the kernel says of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FrameFacts {
    /// How often it is mapped, by everyone.
    pub mapped: u64,
    /// What it is.
    pub flags: PageFlags,
}

/// Who tells about frames: the kernel, or a table in a test.
///
/// Frames are sorted and distinct wherever they are asked for, and answered in their order.
pub trait Frames: Send + Sync {
    /// How often each frame is mapped, by everyone.
    fn counts(&self, pfns: &[Pfn], out: &mut Vec<u64>) -> io::Result<()>;

    /// What each frame is. Asked for only where the count and the page table leave it open: it
    /// costs as much as the count.
    fn flags(&self, pfns: &[Pfn], out: &mut Vec<PageFlags>) -> io::Result<()>;

    /// How often the kernel has moved pages to other frames by itself; compared, not summed.
    fn moves(&self) -> u64 {
        0
    }

    /// Both.
    fn facts(&self, pfns: &[Pfn], out: &mut Vec<FrameFacts>) -> io::Result<()> {
        let (mut counts, mut flags) = (Vec::new(), Vec::new());
        self.counts(pfns, &mut counts)?;
        self.flags(pfns, &mut flags)?;
        out.clear();
        let both = counts.iter().zip(&flags);
        out.extend(both.map(|(&mapped, &flags)| FrameFacts { mapped, flags }));
        Ok(())
    }
}

/// A frame without a page behind it.
const NOPAGE: u64 = 1 << 20;

/// The host that we run on.
#[derive(Debug)]
pub struct Host {
    counts: KPage,
    flags: KPage,
    caps: caps::Caps,
}

/// Why a host cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Frame numbers are hidden.
    #[error(transparent)]
    NoPfns(#[from] caps::NoPfns),
    /// `/proc/kpagecount` or `/proc/kpageflags` cannot be opened.
    #[error(
        "{file} cannot be opened: run as root, or with the capability CAP_DAC_READ_SEARCH; the kernel needs CONFIG_PROC_PAGE_MONITOR"
    )]
    NoFrames {
        /// The file.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Host {
    /// Finds out what can be read here.
    pub fn open() -> Result<Self, HostError> {
        let caps = caps::probe()?;
        let no_frames = |file| move |source| HostError::NoFrames { file, source };
        Ok(Self {
            counts: KPage::count().map_err(no_frames("/proc/kpagecount"))?,
            flags: KPage::flags().map_err(no_frames("/proc/kpageflags"))?,
            caps,
        })
    }

    /// What the kernel can.
    pub const fn caps(&self) -> caps::Caps {
        self.caps
    }
}

/// KSM's state.
pub fn ksm() -> Result<Ksm, KsmUnknown> {
    ksm::read()
}

/// The NUMA nodes.
pub fn nodes() -> Option<Nodes> {
    numa::nodes()
}

impl Frames for Host {
    fn counts(&self, pfns: &[Pfn], out: &mut Vec<u64>) -> io::Result<()> {
        self.counts.read(pfns, 0, out)
    }

    fn flags(&self, pfns: &[Pfn], out: &mut Vec<PageFlags>) -> io::Result<()> {
        let mut words = Vec::new();
        self.flags.read(pfns, NOPAGE, &mut words)?;
        out.clear();
        out.extend(words.into_iter().map(PageFlags));
        Ok(())
    }

    fn moves(&self) -> u64 {
        let merges = ksm::read().map_or(0, |ksm| ksm.pages_shared + ksm.pages_sharing * 3);
        vmstat::moves().wrapping_add(merges)
    }
}
