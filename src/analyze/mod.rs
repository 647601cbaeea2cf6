//! Floor 3: what is made of pages' facts: who shares what with whom, and what follows from it.
//!
//! ```text
//! sources ──facts──> collect ──sightings──> verify ──> tally ──> Scan ──> summary, matrix, what-if
//!                    (parallel, by piece)   (second look)  (by frame)        groups, why, diff
//! ```
//!
//! A page that the kernel marks as mapped exclusively (pagemap bit 56) is counted and forgotten. Of
//! every other page a *sighting* is kept, eight bytes: this frame, in this region. Sorted by frame,
//! sightings tell the set of VMs behind each frame; frames with the same set are one *group*.

pub mod cause;
pub mod collect;
pub mod content;
pub mod diff;
pub mod double;
pub mod fold;
pub mod huge;
pub mod matrix;
pub mod pages;
pub mod scan;
pub mod sighting;
pub mod summary;
pub mod tally;
pub mod unmapped;
pub mod verify;
pub mod whatif;
pub mod why;

pub use scan::{Options, Scan, ScanError, scan};
