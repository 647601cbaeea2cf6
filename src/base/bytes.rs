//! A little-endian cursor over bytes: every error says what was being read, and where.
//!
//! Beside fixed fields there are *varints*: seven bits a byte, the lowest first, the top bit of a
//! byte saying that another follows. A number has one spelling only: longer ones are refused, so
//! that no two streams mean the same.

/// Reads fields from a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The bytes ended inside a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the data ends inside {what} at byte {at}")]
pub struct Truncated {
    /// The field.
    pub what: &'static str,
    /// Offset of its first byte.
    pub at: usize,
}

impl<'a> Reader<'a> {
    /// From the first byte on.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Truncated> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else { return Err(Truncated { what, at: self.at }) };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Truncated> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    /// The next byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Truncated> {
        self.array::<1>(what).map(|[b]| b)
    }

    /// The next little-endian `u16`.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Truncated> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// The next little-endian `u32`.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Truncated> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next little-endian `u64`.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Truncated> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Truncated> {
        self.array(what)
    }

    /// The next varint; `None` where it is spelled longer than it need be, or beyond 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<Option<u64>, Truncated> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Ok(None);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((byte != 0 || shift == 0).then_some(value));
            }
        }
        Ok(None)
    }
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8; // seven bits
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_the_end_is_named() {
        let mut r = Reader::new(&[1, 2, 0, 3, 0, 0, 0, 9]);
        assert_eq!((r.u8("a"), r.u16("b"), r.u32("c")), (Ok(1), Ok(2), Ok(3)));
        assert_eq!(r.u64("size"), Err(Truncated { what: "size", at: 7 }));
        assert_eq!(r.left(), 1);
        assert_eq!(r.take(usize::MAX, "huge").unwrap_err().at, 7);
    }

    proptest::proptest! {
        #[test]
        fn a_varint_has_one_spelling(value: u64, noise in proptest::prelude::any::<[u8; 11]>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(&out).varint("v"), Ok(Some(value)));
            let mut r = Reader::new(&noise);
            if let Ok(Some(read)) = r.varint("v") {
                let mut again = Vec::new();
                put_varint(&mut again, read);
                assert_eq!(again, noise[..r.offset()]);
            }
        }
    }

    #[test]
    fn a_varint_too_long_is_none() {
        assert_eq!(Reader::new(&[0x80, 0]).varint("v"), Ok(None));
        assert_eq!(Reader::new(&[0xff; 10]).varint("v"), Ok(None));
        assert!(Reader::new(&[0x80]).varint("v").is_err());
    }
}
