//! What the ledger must keep.

use super::*;

fn blocks(pages: u64) -> Vec<(String, u64)> {
    vec![("ram".to_owned(), pages)]
}

fn ledger() -> Ledger {
    Ledger::new(Hashing::Plain, 0, 1 << 20)
}

fn land(ledger: &mut Ledger, id: VmId, page: u64, hashes: &[u64]) {
    ledger.arrive(id, page, hashes.len() as u64).unwrap();
    let slot = ledger.slots(hashes.len() as u64);
    let hashes: Vec<PageHash> = hashes.iter().map(|&h| PageHash(h)).collect();
    ledger.landed(id, page, slot, &hashes);
}

#[test]
fn a_reference_has_the_same_slot_and_counts_in_the_digest() {
    let mut all = ledger();
    let a = all.declare("a", &blocks(3)).unwrap();
    let b = all.declare("b", &blocks(3)).unwrap();
    land(&mut all, a, 0, &[5, 6]);
    all.settle(a, 2, 1, Place::Zero).unwrap();
    all.arrive(b, 0, 3).unwrap();
    all.same(b, 0, 3, (a, 0), false).unwrap();
    assert_eq!(all.places(b).get(1), Some(Place::Pool { page: 1 }));
    assert_eq!(all.readiness(a).unwrap(), all.readiness(b).unwrap());
    assert_eq!(all.slot_count(), 2);
}

#[test]
fn a_reference_before_its_page_waits_and_is_settled_when_it_lands() {
    let mut all = ledger();
    let b = all.declare("b", &blocks(2)).unwrap();
    let a = all.refer("a", &blocks(2)).unwrap();
    all.arrive(b, 0, 2).unwrap();
    all.same(b, 0, 2, (a, 0), true).unwrap();
    assert_eq!(all.readiness(b).unwrap(), Readiness::Waits { page: 0, of: "a".into(), of_page: 0 });
    assert!(all.is_expected("a"));
    assert_eq!(all.declare("a", &blocks(2)).unwrap(), a);
    land(&mut all, a, 0, &[5]);
    assert!(matches!(all.readiness(b).unwrap(), Readiness::Waits { of_page: 1, .. }));
    land(&mut all, a, 1, &[6]);
    assert_eq!(all.readiness(a).unwrap(), all.readiness(b).unwrap());
}

#[test]
fn what_never_arrives_is_named() {
    let mut all = ledger();
    let b = all.declare("b", &blocks(1)).unwrap();
    let a = all.refer("a", &blocks(2)).unwrap();
    all.arrive(b, 0, 1).unwrap();
    all.same(b, 0, 1, (a, 1), true).unwrap();
    let waits = Readiness::Waits { page: 0, of: "a".into(), of_page: 1 };
    assert_eq!(all.readiness(b), Ok(waits));
    all.give_up(a);
    assert!(matches!(all.readiness(b), Err(LedgerError::NeverArrived { of_page: 1, .. })));
}

#[test]
fn each_page_comes_once_and_all_come() {
    let mut all = ledger();
    let a = all.declare("a", &blocks(4)).unwrap();
    land(&mut all, a, 1, &[1, 2]);
    let twice = all.arrive(a, 2, 2).unwrap_err();
    assert_eq!(twice, LedgerError::Twice { name: "a".into(), page: 2 });
    assert!(matches!(all.arrive(a, 3, 2), Err(LedgerError::Beyond { end: 5, .. })));
    assert!(matches!(all.arrive(a, u64::MAX, 2), Err(LedgerError::Beyond { .. })));
    assert_eq!(all.readiness(a), Err(LedgerError::Missing { name: "a".into(), page: 0 }));
    assert!(matches!(all.same(a, 0, 1, (a, 3), true), Err(LedgerError::Dangling { .. })));
    assert_eq!(all.declare("a", &blocks(1)), Err(LedgerError::Taken("a".into())));
    assert!(matches!(all.declare("b", &blocks(1 << 21)), Err(LedgerError::TooLarge { .. })));
}

#[test]
fn a_page_that_comes_again_takes_its_old_self_out() {
    let mut all = ledger();
    let (a, b) = (all.declare("a", &blocks(2)).unwrap(), all.declare("b", &blocks(2)).unwrap());
    land(&mut all, a, 0, &[1, 2]);
    land(&mut all, b, 0, &[1, 3]);
    all.next_round(a);
    land(&mut all, a, 1, &[3]);
    assert!(matches!(all.arrive(a, 1, 1), Err(LedgerError::Twice { .. })));
    assert_eq!(all.readiness(a).unwrap(), all.readiness(b).unwrap());
}

#[test]
fn a_template_settles_pages_by_its_hashes() {
    let mut all = ledger();
    let template = all.add_template([Some(PageHash(9)), None, Some(PageHash(8))].into());
    let (a, b) = (all.declare("a", &blocks(3)).unwrap(), all.declare("b", &blocks(3)).unwrap());
    all.arrive(a, 0, 3).unwrap();
    all.settle(a, 0, 3, Place::Template { file: template, page: 0 }).unwrap();
    land(&mut all, b, 0, &[9]);
    all.arrive(b, 1, 1).unwrap();
    all.settle(b, 1, 1, Place::Unused).unwrap();
    land(&mut all, b, 2, &[8]);
    assert_eq!(all.readiness(a).unwrap(), all.readiness(b).unwrap());
    all.next_round(a);
    let beyond = all.settle(a, 0, 2, Place::Template { file: template, page: 2 });
    assert_eq!(beyond, Err(LedgerError::BeyondTemplate { page: 3, pages: 3 }));
}

#[test]
fn a_reference_to_a_vm_whose_stream_has_failed_names_it() {
    let mut all = ledger();
    let b = all.declare("b", &blocks(2)).unwrap();
    let a = all.refer("a", &blocks(2)).unwrap();
    assert_eq!(all.declare("a", &blocks(2)).unwrap(), a);
    land(&mut all, a, 0, &[5]);
    all.arrive(b, 0, 1).unwrap();
    all.same(b, 0, 1, (a, 0), true).unwrap();
    all.give_up(a);
    all.arrive(b, 1, 1).unwrap();
    let error = all.same(b, 1, 1, (a, 0), true).unwrap_err();
    let (name, of) = ("b".to_owned(), "a".to_owned());
    assert_eq!(error, LedgerError::NeverArrived { name, page: 1, of, of_page: 0 });
    assert_eq!(all.places(b).get(0), Some(Place::Pool { page: 0 }), "what came before stays");
}

#[test]
fn what_waits_costs_what_a_run_costs_and_a_later_round_ends_it() {
    let mut all = Ledger::new(Hashing::Plain, 0, 1 << 24);
    let b = all.declare("b", &blocks(1 << 22)).unwrap();
    let a = all.refer("a", &blocks(1 << 22)).unwrap();
    all.arrive(b, 0, 1 << 22).unwrap();
    all.same(b, 0, 1 << 22, (a, 0), true).unwrap();
    assert_eq!(all.places(b).runs().count(), 1);
    assert!(matches!(all.arrive(b, 5, 1), Err(LedgerError::Twice { page: 5, .. })));
    all.next_round(b);
    all.arrive(b, 0, 1 << 22).unwrap();
    all.settle(b, 0, 1 << 22, Place::Zero).unwrap();
    assert!(matches!(all.readiness(b), Ok(Readiness::Whole(_))));
}
