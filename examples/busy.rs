//! A process whose threads count, and that makes new threads all the time: for tests that it stands
//! still as a whole.
//!
//! ```text
//! busy THREADS
//! ```
//! It prints the address of its counters, which are 64 numbers of 8 bytes, and runs until it is
//! killed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

static COUNTS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pageherd::sys::fork::die_with_parent()?;
    let threads: usize = std::env::args().nth(1).unwrap_or_default().parse()?;
    for n in 0..threads {
        thread::spawn(move || {
            loop {
                COUNTS[n % 62].fetch_add(1, Ordering::Relaxed);
                // some are always running, the others mostly asleep
                if n % 2 == 1 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
    }
    println!("{:p}", COUNTS.as_ptr());
    loop {
        let short = thread::spawn(|| COUNTS[62].fetch_add(1, Ordering::Relaxed));
        let _ = short.join();
        COUNTS[63].fetch_add(1, Ordering::Relaxed);
    }
}
