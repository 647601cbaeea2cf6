//! Reads KSM's files; never writes one.

use crate::abi::ksm::{Ksm, KsmError};
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// Where the kernel has KSM's settings and counters.
pub const DIR: &str = "/sys/kernel/mm/ksm";

/// Why KSM's state is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KsmUnknown {
    /// The kernel was built without KSM.
    #[error("this kernel has no KSM: {DIR} does not exist (CONFIG_KSM is off)")]
    NotInKernel,
    /// A file could not be read.
    #[error("{DIR} cannot be read")]
    Io(#[source] io::Error),
    /// A file's content is not understood.
    #[error(transparent)]
    Parse(#[from] KsmError),
}

/// The state of KSM, as one pass over its files shows it.
pub fn read() -> Result<Ksm, KsmUnknown> {
    read_from(Path::new(DIR))
}

fn read_from(dir: &Path) -> Result<Ksm, KsmUnknown> {
    let entries = fs::read_dir(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => KsmUnknown::NotInKernel,
        _ => KsmUnknown::Io(e),
    })?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(KsmUnknown::Io)?;
        // A file that cannot be read is as one that this kernel does not have: where it is
        // needed, the parser names it.
        if let Ok(text) = fs::read_to_string(entry.path()) {
            files.insert(entry.file_name().to_string_lossy().into_owned(), text);
        }
    }
    Ok(Ksm::parse(&files)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ksm_is_said_to_be_one() {
        let none = read_from(Path::new("/sys/kernel/mm/no-such-ksm")).unwrap_err();
        assert!(matches!(none, KsmUnknown::NotInKernel));
        assert!(none.to_string().contains("CONFIG_KSM"));
    }

    #[test]
    fn an_empty_folder_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_from(dir.path()).unwrap_err().to_string();
        assert!(error.contains("'run' is missing"), "{error}");
    }
}
