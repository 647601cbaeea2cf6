//! Kernel byte and text layouts, decoded purely: bytes in, facts out. No system calls, no unsafe.
//!
//! Each table names the kernel file it is drawn from. Bit numbers stand here and nowhere else.

pub mod kpageflags;
pub mod ksm;
pub mod node;
pub mod pagemap;
pub mod vma;
