//! Floor 4: what the commands share: how they are asked, how they answer, how they end.
//!
//! Data goes to standard output, words to standard error. Every write is checked: a full disk is an
//! error, a closed pipe ends the command quietly.

pub mod args;
pub mod exit;
pub mod filters;
pub mod guide;
pub mod man5;
pub mod manual;
mod markdown;
pub mod moves;
pub mod output;
pub mod page;
pub mod progress;
pub mod size;
pub mod start;
pub mod svg;
pub mod table;
pub mod usage;

pub use exit::Exit;
