//! Floor 2: where memory becomes a running VM again.

pub mod vmm;
