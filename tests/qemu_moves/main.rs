//! Guests that move from QEMU to QEMU and go on: in both versions, as both machines.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

#[path = "../support/mod.rs"]
mod support;

mod filtered;
mod flips;
mod groups;
mod guide;
mod plain;
mod rig;
mod road;
mod several;
mod truth;
mod ways;
