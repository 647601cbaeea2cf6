//! Floor 3: moving memory. A sender makes places of pages, a receiver makes memory of places, and a
//! transaction between them sees to it that the memory has one owner at every moment.
//!
//! ```text
//! Feed --facts, pages--> filters --places--> wire --> transport --> wire --> ledger, store
//!      (send::Reader)    (filter)           (send::Writer)         (receive)
//! ```

pub mod codecs;
pub mod receive;
pub mod seal;
pub mod send;
pub mod templates;
pub mod transaction;
pub mod wait;

#[cfg(test)]
mod tests;
