//! The stream against its description: every vector of `fixtures/stream/` through the reference
//! decoder, which was written from `docs/FORMAT.md` alone, and through the decoder and the ledger of
//! the library; damage of every kind; and streams that nobody thought of.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails where it stands
#![allow(clippy::cast_possible_truncation)] // the reference decoder: bounded by what it has checked

mod alloc;
mod applier;
mod damage;
mod fuzz;
mod given;
mod receiver;
mod refdecoder;
mod scenarios;
mod script;
mod vecfile;
mod vectors;
