//! The only unsafe code of the crate: one kernel interface a file.
//!
//! The charter. What callers may assume: every function here is safe to call with any argument, and
//! reports what the kernel said as [`std::io::Error`]. What each file must prove, at each `unsafe`:
//! who guarantees that the pointer is valid, for how long, and for how many bytes.
//!
//! Nothing here changes a page or a setting; what changes our own process ([`mapping`], [`fork`],
//! [`fd`], [`guard`], [`sandbox`], [`siphon`]) says so in its name. Two things act on another process, and only
//! when told to: [`pidfd::PidFd::signal`] and [`cgroup::Freezer`].

#![allow(unsafe_code)]

pub mod cache;
pub mod caps;
pub mod cgroup;
pub mod extents;
pub mod fd;
pub mod fork;
pub mod guard;
pub mod kpage;
pub mod ksm;
pub mod mapping;
pub mod numa;
pub mod pagemap;
pub mod pidfd;
pub mod process;
pub mod readers;
pub mod reflink;
pub mod sandbox;
pub mod scan;
mod seccomp;
pub mod signal;
pub mod siphon;
pub mod socket;
pub mod spawn;
pub mod splice;
pub mod stdio;
pub mod threads;
pub mod unnamed;
pub mod vm;
pub mod vmstat;
