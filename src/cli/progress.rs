//! A progress bar on standard error, on a terminal only.

use super::args::When;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar over `pages` pages; hidden where nobody would see it.
pub fn pages(pages: u64, when: When) -> ProgressBar {
    let shown = match when {
        When::Always => true,
        When::Never => false,
        When::Auto => std::io::stderr().is_terminal(),
    };
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(
        Some(pages * crate::base::PAGE_SIZE),
        ProgressDrawTarget::stderr_with_hz(8),
    );
    // A template of our own is a constant; where it cannot be parsed the default one serves.
    let style = ProgressStyle::with_template("{bar:32} {binary_bytes}/{binary_total_bytes} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
