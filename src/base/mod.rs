//! Floor 0: the words that everyone shares, as types. No I/O, no unsafe, nothing of the crate.

pub mod addr;
pub mod address;
pub mod buffer;
pub mod bytes;
pub mod digest;
pub mod fact;
pub mod mechanism;
pub mod place;
pub mod places;
pub mod range;
pub mod target;

pub use addr::{Hva, PAGE_SIZE, Pfn};
pub use mechanism::Mechanism;
pub use place::Place;
pub use places::Places;
pub use range::PageRange;
