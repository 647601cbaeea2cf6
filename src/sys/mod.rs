//! The only unsafe code of the crate: one kernel interface a file.
//!
//! The charter. What callers may assume: every function here is safe to call with any argument, and
//! reports what the kernel said as [`std::io::Error`]. What each file must prove, at each `unsafe`:
//! who guarantees that the pointer is valid, for how long, and for how many bytes.
//!
//! Nothing here changes another process, a page or a setting; what changes our own process
//! ([`mapping`], [`fork`], [`fd`]) says so in its name.

#![allow(unsafe_code)]

pub mod cache;
pub mod caps;
pub mod child;
pub mod extents;
pub mod fd;
pub mod fork;
pub mod kpage;
pub mod ksm;
pub mod mapping;
pub mod numa;
pub mod pagemap;
pub mod pidfd;
pub mod process;
pub mod scan;
pub mod signal;
pub mod socket;
pub mod stdio;
pub mod vmstat;
