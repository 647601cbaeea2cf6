//! What a reader is given beside the streams, and what becomes of them.

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// What a reader has before a stream comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Given {
    /// The secret of its key, if it has one.
    pub secret: Option<Vec<u8>>,
    /// Its templates; of each page the byte that fills it.
    pub templates: Vec<Vec<u8>>,
    /// How many pages it allows to all VMs together.
    pub max_pages: u64,
    /// Has it the external filter *fill*, which packs a page of equal bytes as that byte?
    pub exec: bool,
}

impl Default for Given {
    fn default() -> Self {
        Self { secret: None, templates: Vec::new(), max_pages: 4096, exec: false }
    }
}

impl Given {
    /// The bytes of a template.
    pub(crate) fn template(&self, number: usize) -> Vec<u8> {
        memory(&self.templates[number])
    }
}

/// Pages, each filled by one byte.
pub(crate) fn memory(fills: &[u8]) -> Vec<u8> {
    fills.iter().flat_map(|&fill| [fill; PAGE]).collect()
}

/// What *fill* makes of bytes; none where it cannot.
pub(crate) fn unfill(packed: &[u8], out: &mut [u8]) -> bool {
    let fits = packed.len() * PAGE == out.len();
    if fits {
        out.chunks_mut(PAGE).zip(packed).for_each(|(page, &byte)| page.fill(byte));
    }
    fits
}

/// Where and why a stream was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    /// The word of the vectors for it.
    pub kind: &'static str,
    /// Which of the streams.
    pub stream: usize,
    /// Records that were taken before; none where it was the header.
    pub record: Option<u32>,
}

/// What is kept of a VMM's stream beside the pages of its VM: it stands among the memories under this
/// name.
pub(crate) fn state_of(vm: &str) -> String {
    format!("{vm}{STATE}")
}

/// The ending of such a name.
pub(crate) const STATE: &str = ".qemu";

/// VMs in the order of their names, with their memories.
pub(crate) type Memories = Vec<(String, Vec<u8>)>;

/// What became of some streams.
pub(crate) type Outcome = Result<Memories, Refused>;

/// How the bytes come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Feed {
    /// All at once.
    Whole,
    /// One by one.
    Bytes,
    /// In pieces of random lengths.
    Pieces(u64),
}

impl Feed {
    pub(crate) fn each<'a>(self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        match self {
            Self::Whole => Box::new(std::iter::once(bytes)),
            Self::Bytes => Box::new(bytes.chunks(1)),
            Self::Pieces(seed) => {
                let (mut rng, mut rest) = (Rng(seed | 1), bytes);
                Box::new(std::iter::from_fn(move || {
                    let len = (1 + rng.below(1 + rng.clone().below(3000))).min(rest.len() as u64);
                    let (piece, after) = rest.split_at(usize::try_from(len).unwrap());
                    rest = after;
                    (!piece.is_empty()).then_some(piece)
                }))
            }
        }
    }
}

/// Random numbers that can be had again.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end`, that left out.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }
}
