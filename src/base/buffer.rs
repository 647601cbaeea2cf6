//! A buffer of pages that begins where a page can begin in memory.
//!
//! The kernel copies to and from such places up to twice as fast as to others (`rep movsb` with both
//! ends on a cache line; measured in docs/PERFORMANCE.md), and a page that is lent to a pipe is one page
//! there and not parts of two.

use std::fmt;
use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;

/// Bytes, the first of which is at a multiple of 4096.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Buffer {
    /// So many bytes; what they are is not said where it had as many before.
    pub fn resize(&mut self, len: usize) {
        if self.bytes.len() < self.from + len {
            self.bytes = vec![0; len + PAGE - 1];
            self.from = self.bytes.as_ptr().align_offset(PAGE).min(PAGE - 1);
        }
        self.len = len;
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.resize(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_on_a_page_whatever_its_size() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        for len in [1, 4096, 100, 1 << 20, 5000, (1 << 20) + 1] {
            buffer.resize(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(4096), 0);
            buffer[len - 1] = 7;
        }
        let copy = Buffer::from(&buffer[..]);
        assert!(*copy == *buffer);
    }
}
