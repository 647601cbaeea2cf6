//! pageherd: which memory virtual machines share, with whom, through what, and what a move costs.
//!
//! The library behind the commands. Data flows down one street, from sources of pages to what is
//! made of them; [`base`] has the words, `ARCHITECTURE.md` the drawing of the house.
//!
//! ```no_run
//! use pageherd::analyze::{Options, scan, summary::summary};
//! use pageherd::source::{host::Host, resolve::resolve};
//!
//! let host = Host::open()?;
//! let targets = ["a=pid:4711".parse()?, "b=pid:4712".parse()?];
//! let vms = resolve(&targets, host.caps().pagemap_scan)?.vms;
//! let found = scan(&vms, &host, &Options::default(), &|_| {})?;
//! println!("{} pages behind both", summary(&found).footprint_pages);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod abi;
pub mod analyze;
pub mod base;
pub mod cli;
pub mod filter;
pub mod migrate;
pub mod placement;
pub mod qemu;
pub mod sink;
pub mod source;
pub mod store;
pub mod sys;
pub mod transport;
pub mod wire;
