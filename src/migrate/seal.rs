//! The seal of a stream: over everything that it declared and over every digest.

use crate::base::digest::Hashing;
use crate::wire::header::HEADER;
use crate::wire::record::{Native, TemplateShape, VmShape};

/// The seal of what a VMM's stream has beside pages: over each part and the seal so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeSeal(pub [u8; 16]);

impl NativeSeal {
    /// The next part.
    pub fn add(&mut self, hashing: &Hashing, part: Native<'_>) {
        let (kind, bytes) = part.parts();
        self.0 = hashing.seal(&[&self.0[..], &[kind], bytes].concat());
    }
}

/// What a seal is over.
#[derive(Clone, Debug)]
pub struct Seal {
    bytes: Vec<u8>,
}

impl Seal {
    /// Of a stream with this header.
    pub fn new(header: &[u8; HEADER]) -> Self {
        Self { bytes: header.to_vec() }
    }

    /// The next VM, and the digest of its memory unless it is foreign.
    pub fn vm(&mut self, vm: &VmShape, digest: Option<[u8; 16]>) {
        self.bytes.push(u8::from(vm.foreign));
        self.text(&vm.name);
        self.bytes.extend(u32::try_from(vm.blocks.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (label, pages) in &vm.blocks {
            self.text(label);
            self.bytes.extend(pages.to_le_bytes());
        }
        self.bytes.extend(digest.into_iter().flatten());
    }

    /// The next template.
    pub fn template(&mut self, template: &TemplateShape) {
        self.bytes.extend(template.pages.to_le_bytes());
        self.bytes.extend(template.digest);
    }

    /// The seal of what a VMM's stream has beside pages.
    pub fn native(&mut self, seal: &[u8; 16]) {
        self.bytes.extend(seal);
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// The seal.
    pub fn finish(&self, hashing: &Hashing) -> [u8; 16] {
        hashing.seal(&self.bytes)
    }
}
