//! Where else a page's content can be found: the idea of the whole product.

/// A place for a page. A new technique is a new place.
///
/// The others of the plan (`Kept`, `Disk`, `Staged`) come with the commands that find and resolve
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Its content is zero, by the kernel's word.
    Zero,
    /// Nothing: never touched, or given back.
    Unused,
    /// Page `page` of a template file, mapped copy-on-write and not written since.
    Template {
        /// Which file, by position among the files.
        file: u32,
        /// Page of the file.
        page: u64,
    },
    /// Page `page` of the pool, in which each distinct page stands once.
    Pool {
        /// Page of the pool.
        page: u64,
    },
    /// Page `page` of a file or memfd on this host that is mapped shared.
    Local {
        /// Which file, by position among the files.
        file: u32,
        /// Page of the file.
        page: u64,
    },
    /// Nowhere cheaper: its bytes are needed.
    Bytes,
}

impl Place {
    /// The place of the page that is `pages` pages on in the same run.
    pub const fn after(self, pages: u64) -> Self {
        match self {
            Self::Template { file, page } => Self::Template { file, page: page + pages },
            Self::Pool { page } => Self::Pool { page: page + pages },
            Self::Local { file, page } => Self::Local { file, page: page + pages },
            Self::Zero | Self::Unused | Self::Bytes => self,
        }
    }
}
