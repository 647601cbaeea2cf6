//! Records of pages, written as QEMU writes them: [`super::stream`] the other way round.
//!
//! A record leaves its block's name out where the block is that of the record before, and QEMU's
//! reader remembers it through all sections. So whoever leaves records out, or changes their order,
//! must write all of the others here, in the order in which they go out. Then the name stands where
//! it is needed: what QEMU wrote, taken apart and written again, is the same bytes.

use super::stream::{PAGE, flag};

/// A record that no stream can have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EmitError {
    /// A name that has no place in a record.
    #[error("the name of a RAM block has {len} bytes; QEMU's stream has place for 1 to 255")]
    Name {
        /// Its length.
        len: usize,
    },
    /// There is no such block.
    #[error("there is no RAM block {block}: the stream declares {blocks}")]
    NoBlock {
        /// The number.
        block: u32,
        /// How many there are.
        blocks: usize,
    },
    /// A page whose address has no place in a record.
    #[error("page {page} lies beyond what an address of 64 bits reaches")]
    Page {
        /// Its number in the block.
        page: u64,
    },
}

/// Writes records.
#[derive(Clone, Debug)]
pub struct Emitter {
    /// Of each block its name, with the length before it.
    names: Vec<Box<[u8]>>,
    last: Option<u32>,
}

impl Emitter {
    /// For blocks of these names, in the order of their numbers.
    ///
    /// # Errors
    /// [`EmitError::Name`].
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, EmitError> {
        let with_length = |name: N| {
            let name = name.as_ref().as_bytes();
            let len = u8::try_from(name.len()).ok().filter(|&len| len > 0);
            let len = len.ok_or(EmitError::Name { len: name.len() })?;
            Ok([&[len], name].concat().into_boxed_slice())
        };
        let names: Result<_, _> = names.into_iter().map(with_length).collect();
        Ok(Self { names: names?, last: None })
    }

    /// The next record says its block's name, also where it is that of the record before.
    pub const fn name_again(&mut self) {
        self.last = None;
    }

    /// The block of the last record: the one that a record without a name goes on with.
    pub const fn block(&self) -> Option<u32> {
        self.last
    }

    /// Appends a page of zeros.
    ///
    /// # Errors
    /// [`EmitError::NoBlock`], [`EmitError::Page`]; nothing is appended then.
    pub fn zero(&mut self, block: u32, page: u64, out: &mut Vec<u8>) -> Result<(), EmitError> {
        self.record(flag::ZERO, block, page, out)?;
        out.push(0);
        Ok(())
    }

    /// Appends what stands before the 4096 bytes of a page; they must follow.
    ///
    /// # Errors
    /// As of [`Emitter::zero`].
    pub fn head(&mut self, block: u32, page: u64, out: &mut Vec<u8>) -> Result<(), EmitError> {
        self.record(flag::PAGE, block, page, out)
    }

    /// Appends a page.
    ///
    /// # Errors
    /// As of [`Emitter::zero`].
    pub fn page(
        &mut self,
        block: u32,
        page: u64,
        bytes: &[u8; PAGE],
        out: &mut Vec<u8>,
    ) -> Result<(), EmitError> {
        self.head(block, page, out)?;
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn record(
        &mut self,
        kind: u64,
        block: u32,
        page: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), EmitError> {
        let name = self.names.get(block as usize);
        let name = name.ok_or(EmitError::NoBlock { block, blocks: self.names.len() })?;
        let address = page.checked_mul(PAGE as u64).ok_or(EmitError::Page { page })?;
        if self.last == Some(block) {
            out.extend((address | kind | flag::CONTINUE).to_be_bytes());
        } else {
            out.extend((address | kind).to_be_bytes());
            out.extend_from_slice(name);
            self.last = Some(block);
        }
        Ok(())
    }
}
