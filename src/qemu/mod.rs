//! Floor 1: what QEMU says and hears, as bytes and texts. Pure: no socket, no file, no clock.

pub mod emit;
mod field;
mod parser;
pub mod qmp;
pub mod stream;
mod tail;
