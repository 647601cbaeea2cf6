//! What our process does with signals.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Makes a file that may not grow any more (`ulimit -f`) an error of the write, as a full disk is,
/// and not the end of this process, which would leave its work half done.
pub fn too_large_files_are_errors() {
    // SAFETY: the signal is ignored, no handler: nothing of ours runs in signal context.
    let _previous = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Lets SIGPIPE end this process quietly, as every Unix tool that reports does: `| head` is no
/// error. Rust starts with the signal ignored, which would turn it into a write error.
///
/// Tools that carry memory keep it ignored and treat a closed pipe as a failed transfer.
pub fn die_quietly_on_closed_pipe() {
    // SAFETY: the default action is installed, no handler: nothing of ours runs in signal context.
    let _previous = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}
