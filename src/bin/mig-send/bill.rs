//! The bill: what each filter did, saved and cost.

use pageherd::cli::{size, table};
use pageherd::filter::bill::Account;
use pageherd::migrate::send::Sent;
use serde_json::{Value, json};
use std::fmt::Write;

/// Bytes of all memories.
fn memory(sent: &Sent) -> u64 {
    sent.vms.iter().map(|vm| vm.pages * 4096).sum()
}

/// As JSON.
pub(crate) fn json(sent: &Sent, moved: bool) -> Value {
    let vm = |vm: &pageherd::migrate::send::SentVm| json!({ "name": vm.name, "pages": vm.pages, "digest": vm.digest.to_string() });
    json!({
        "session": sent.session.to_string(),
        "confirmed": sent.confirmed,
        "moved": moved,
        "vms": sent.vms.iter().map(vm).collect::<Vec<_>>(),
        "memory_bytes": memory(sent),
        "stream_bytes": sent.bytes,
        "seconds": sent.time.as_secs_f64(),
        "filters": sent.filters,
    })
}

/// As a table, for people.
pub(crate) fn text(sent: &Sent, bytes: bool) -> String {
    let size = |n: u64| if bytes { n.to_string() } else { size::human(n) };
    let head = ["FILTER", "PAGES", "SAVED", "SECONDS", "NOTE"].map(str::to_owned).to_vec();
    let row = |account: &Account| {
        vec![
            account.filter.clone(),
            account.pages.to_string(),
            size(account.saved_bytes),
            format!("{:.3}", account.nanos as f64 / 1e9),
            note(account),
        ]
    };
    let rows = sent.filters.iter().map(row);
    let mut text = table::draw(Some(head), rows, |column| (1..4).contains(&column), false);
    let seconds = sent.time.as_secs_f64();
    let (all, stream) = (memory(sent), sent.bytes);
    let share = if all > 0 { stream as f64 * 100.0 / all as f64 } else { 0.0 };
    let _ = writeln!(
        text,
        "{} of memory as {} of stream ({share:.1} %) in {seconds:.2} s; session {}{}",
        size(all),
        size(stream),
        sent.session,
        if sent.confirmed { ", committed" } else { "" },
    );
    text
}

fn note(account: &Account) -> String {
    if account.off_pages == 0 {
        String::new()
    } else if account.looked_at == 0 {
        "not tried: the stream was too short".to_owned()
    } else {
        format!("off for {} pages: it lost time", account.off_pages)
    }
}
