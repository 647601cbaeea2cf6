//! Through what a page is shared.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The mechanism by which one frame stands behind several pages.
///
/// It is a property of the frame, told by the kernel's flags for it and by how it is mapped, so
/// that all who share a frame share it through the same mechanism.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// Merged by the kernel for equal content (`Documentation/admin-guide/mm/ksm.rst`).
    Ksm,
    /// Anonymous memory that parent and child have had in common since a fork.
    Fork,
    /// A page of a file mapped privately and not written since: a template, a program, a library.
    File,
    /// A page of a file, a memfd or anonymous memory that all who map it map shared.
    Shmem,
    /// The kernel's one page of zeros (small or huge).
    Zero,
}

impl Mechanism {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// All of them, in the order of the reports.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Ksm, Self::Fork, Self::File, Self::Shmem, Self::Zero];

    /// The name in JSON, in columns and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ksm => "ksm",
            Self::Fork => "fork",
            Self::File => "file",
            Self::Shmem => "shmem",
            Self::Zero => "zero",
        }
    }

    /// The mechanism of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Page counts by mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ByMechanism {
    /// Merged by KSM.
    pub ksm: u64,
    /// Common since a fork.
    pub fork: u64,
    /// From a privately mapped file.
    pub file: u64,
    /// From a shared mapping.
    pub shmem: u64,
    /// The zero page.
    pub zero: u64,
}

impl ByMechanism {
    /// The count of one mechanism.
    pub const fn get(&self, mechanism: Mechanism) -> u64 {
        match mechanism {
            Mechanism::Ksm => self.ksm,
            Mechanism::Fork => self.fork,
            Mechanism::File => self.file,
            Mechanism::Shmem => self.shmem,
            Mechanism::Zero => self.zero,
        }
    }

    /// Adds `pages` to one mechanism.
    pub const fn add(&mut self, mechanism: Mechanism, pages: u64) {
        let slot = match mechanism {
            Mechanism::Ksm => &mut self.ksm,
            Mechanism::Fork => &mut self.fork,
            Mechanism::File => &mut self.file,
            Mechanism::Shmem => &mut self.shmem,
            Mechanism::Zero => &mut self.zero,
        };
        *slot += pages;
    }

    /// Adds another set of counts.
    pub fn merge(&mut self, other: &Self) {
        for m in Mechanism::ALL {
            self.add(m, other.get(m));
        }
    }

    /// All mechanisms together.
    pub fn total(&self) -> u64 {
        Mechanism::ALL.into_iter().map(|m| self.get(m)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mechanism_has_its_own_name_and_slot() {
        let mut by = ByMechanism::default();
        for (i, m) in Mechanism::ALL.into_iter().enumerate() {
            assert_eq!(m.index(), i);
            assert_eq!(Mechanism::from_name(m.name()), Some(m));
            by.add(m, 1 << i);
            assert_eq!(by.get(m), 1 << i);
        }
        assert_eq!(by.total(), 31);
    }
}
