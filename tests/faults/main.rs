//! The fault matrix of mig-send and mig-recv: what can go wrong, in which mode, at which point, what
//! must come of it and what did. Each fault is a row; all of them run, and a surprise in one does
//! not hide those in others.
//!
//! `target/faults.csv` has them as `fault,mode,point,expected,got`. `PAGEHERD_FAULTS=text` runs only
//! rows that have this text in them.

#![allow(clippy::unwrap_used)] // a row that cannot go on says where it stands

#[path = "../support/mod.rs"]
mod support;

mod bombs;
mod damage;
mod frames;
mod herds;
mod inject;
mod keys;
mod kills;
mod matrix;
mod media;
mod peers;
mod resources;
mod rights;
mod scene;
mod targets;
mod usage;

use matrix::Rows;

#[test]
fn every_fault_ends_as_it_should() {
    for tool in ["strace", "setpriv", "unshare", "script", "python3", "prlimit", "mkfs.ext4"] {
        let found = std::process::Command::new("sh")
            .args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; command -v {tool} >/dev/null")])
            .status();
        if !nix::unistd::geteuid().is_root() || !found.is_ok_and(|found| found.success()) {
            support::skip("every_fault_ends_as_it_should", &format!("root, or {tool}"));
            return;
        }
    }
    let mut rows = Rows::default();
    usage::add(&mut rows);
    keys::add(&mut rows);
    targets::add(&mut rows);
    herds::add(&mut rows);
    damage::add(&mut rows);
    bombs::add(&mut rows);
    media::add(&mut rows);
    peers::add(&mut rows);
    resources::add(&mut rows);
    inject::add(&mut rows);
    rights::add(&mut rows);
    kills::add(&mut rows);
    let surprises = rows.play();
    std::fs::remove_dir_all(scene::programs()).unwrap();
    assert!(surprises.is_empty(), "\n{}", surprises.join("\n"));
}
