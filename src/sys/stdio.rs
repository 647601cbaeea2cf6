//! Whether standard output was open when the program began.
//!
//! Rust's runtime opens `/dev/null` in place of a standard descriptor that is closed, before `main`:
//! whatever is reported then goes nowhere, and no write fails. So we look before the runtime does.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs with the program's other constructors, before the runtime.
#[used]
// SAFETY: the section is a list of functions that the C library calls before `main`, with this
// calling convention; `look` takes nothing, allocates nothing and needs no runtime.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: asks for the flags of a descriptor by number; no memory is involved.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Was standard output closed when this program began?
pub fn stdout_was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
