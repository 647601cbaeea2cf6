//! Asks filters, and keeps their accounts.

use super::Link;
use crate::filter::bill::{Account, Meter};
use crate::filter::{Batch, Filter, PAGE, World};
use std::time::Instant;

/// Filters in their order.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    filters: Vec<(Box<dyn Filter>, Meter)>,
    link: &'a Link,
}

impl<'a> Asker<'a> {
    pub(super) fn new(filters: Vec<Box<dyn Filter>>, link: &'a Link, keep_on: bool) -> Self {
        let with_meter = |filter: Box<dyn Filter>| {
            let meter = Meter::new(filter.name(), keep_on || filter.always_on());
            (filter, meter)
        };
        Self { filters: filters.into_iter().map(with_meter).collect(), link }
    }

    /// What the filters did.
    pub(super) fn accounts(self) -> Vec<Account> {
        self.filters.into_iter().map(|(_, meter)| meter.account).collect()
    }

    /// The filters themselves.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut Box<dyn Filter>> {
        self.filters.iter_mut().map(|(filter, _)| filter)
    }

    pub(super) fn by_facts(&mut self, batch: &mut Batch, world: &dyn World) {
        self.ask(batch, world, false, |filter, batch, world| filter.by_facts(batch, world));
    }

    pub(super) fn by_content(&mut self, batch: &mut Batch, world: &dyn World) {
        if batch.was_read.contains(&true) {
            self.ask(batch, world, true, |filter, batch, world| filter.by_content(batch, world));
        }
    }

    fn ask(
        &mut self,
        batch: &mut Batch,
        world: &dyn World,
        with_content: bool,
        mut how: impl FnMut(&mut dyn Filter, &mut Batch, &dyn World) -> u64,
    ) {
        for (filter, meter) in &mut self.filters {
            timed(meter, self.link, batch, with_content, |batch| {
                how(filter.as_mut(), batch, world)
            });
        }
    }
}

/// Has a filter look at the open pages of a batch, if it is on, and puts it on its account. Was it
/// asked?
pub(super) fn timed(
    meter: &mut Meter,
    link: &Link,
    batch: &mut Batch,
    with_content: bool,
    how: impl FnOnce(&mut Batch) -> u64,
) -> bool {
    let open = batch.open().count() as u64;
    if open == 0 || !meter.is_on(open, link.nanos_a_byte()) {
        return false;
    }
    let start = Instant::now();
    let pages = how(batch);
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // a page that is looked at by its facts and then by its content counts once
    let looked_at = if with_content { open } else { pages };
    meter.add(looked_at, pages, pages * PAGE as u64, nanos);
    if let Some(link) = link.nanos_a_byte() {
        meter.judge(link);
    }
    true
}
