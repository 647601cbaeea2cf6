//! `template`: pages of a template that the receiver has proven to have.
//!
//! A page that its VM maps privately from the template and has not written is on it by the kernel's
//! word, and is not read. Any other is looked for by content: the same page of the template first,
//! then any (with a randomised kernel two boots share half of their pages, but only a fifth at the
//! same offset: docs/PERFORMANCE.md). A hash says where to look, the bytes decide.

use super::{Batch, Filter, PAGE, Settled, World};
use crate::base::digest::PageHash;
use crate::base::fact::Fact;
use hashbrown::HashTable;
use std::sync::Arc;

/// The hashes of templates, and where each stands.
#[derive(Debug, Default)]
pub struct Template {
    templates: Vec<Index>,
    verify: bool,
}

#[derive(Debug)]
struct Index {
    hashes: Arc<[Option<PageHash>]>,
    pages: HashTable<u32>,
}

impl Template {
    /// For templates with these hashes; `verify`: compare the pages that are mapped, too.
    pub fn new(templates: Vec<Arc<[Option<PageHash>]>>, verify: bool) -> Self {
        let index = |hashes: Arc<[Option<PageHash>]>| {
            let mut pages = HashTable::new();
            let hash_of = |page: u32| hashes[page as usize].map_or(0, |hash| hash.0);
            for (page, hash) in (0u32..).zip(hashes.iter()) {
                if let Some(hash) = hash {
                    pages
                        .entry(hash.0, |&known| hash_of(known) == hash.0, |&known| hash_of(known))
                        .or_insert(page);
                }
            }
            Index { hashes, pages }
        };
        Self { templates: templates.into_iter().map(index).collect(), verify }
    }
}

impl Index {
    fn hash(&self, page: u64) -> Option<PageHash> {
        *self.hashes.get(usize::try_from(page).ok()?)?
    }

    fn find(&self, hash: PageHash, same: u64) -> Option<u64> {
        if self.hash(same) == Some(hash) {
            return Some(same);
        }
        let found = self.pages.find(hash.0, |&page| self.hash(u64::from(page)) == Some(hash));
        found.map(|&page| u64::from(page))
    }
}

impl Filter for Template {
    fn name(&self) -> &'static str {
        "template"
    }

    fn by_facts(&mut self, batch: &mut Batch, world: &dyn World) -> u64 {
        let mut pages = 0;
        for at in 0..batch.len() {
            let clean = matches!(batch.facts[at], Fact::File | Fact::Frame { clean: true, .. });
            if batch.settled[at].is_some() || !clean {
                continue;
            }
            let here = batch.first + at as u64;
            let Some((template, page)) = world.mapped_template(batch.vm, here) else { continue };
            let Some(index) = self.templates.get(template as usize) else { continue };
            if page >= index.hashes.len() as u64 {
                continue;
            }
            if self.verify && !equal(batch.vm, here, template, page, world) {
                continue;
            }
            batch.hashes[at] = index.hash(page);
            batch.settled[at] = Some(Settled::Template { template, page });
            pages += 1;
        }
        pages
    }

    fn by_content(&mut self, batch: &mut Batch, world: &dyn World) -> u64 {
        let (mut pages, mut other) = (0, [0; PAGE]);
        for at in 0..batch.len() {
            let Some(hash) = batch.hashes[at].filter(|_| batch.settled[at].is_none()) else {
                continue;
            };
            let same = batch.first + at as u64;
            let all = (0u32..).zip(&self.templates);
            let found = all.filter_map(|(n, index)| Some((n, index.find(hash, same)?))).next();
            let Some((template, page)) = found else { continue };
            if world.template(template, page, &mut other) && other == batch.page(at) {
                batch.settled[at] = Some(Settled::Template { template, page });
                pages += 1;
            }
        }
        pages
    }
}

fn equal(vm: u32, page: u64, template: u32, of: u64, world: &dyn World) -> bool {
    let (mut ours, mut theirs) = ([0; PAGE], [0; PAGE]);
    world.content(vm, page, &mut ours)
        && world.template(template, of, &mut theirs)
        && ours == theirs
}

#[cfg(test)]
mod tests {
    use super::super::worlds::{Made, read};
    use super::*;

    fn made() -> (Made, Template) {
        let template: Vec<u8> = [1u8, 0, 3, 4].iter().flat_map(|&byte| [byte; PAGE]).collect();
        let pages: Vec<Vec<u8>> = template.chunks(PAGE).map(<[u8]>::to_vec).collect();
        let hashes = read(0, 0, &pages).hashes.into();
        (Made { templates: vec![template], ..Made::default() }, Template::new(vec![hashes], false))
    }

    #[test]
    fn the_same_page_comes_first_then_any_and_the_bytes_decide() {
        let (world, mut filter) = made();
        let mut batch = read(0, 2, &[vec![3; PAGE], vec![1; PAGE], vec![9; PAGE], vec![0; PAGE]]);
        assert_eq!(filter.by_content(&mut batch, &world), 2);
        let at = |page| Some(Settled::Template { template: 0, page });
        assert_eq!(batch.settled, [at(2), at(0), None, None]);
        let mut forged = read(0, 0, &[vec![9; PAGE]]);
        forged.hashes[0] = read(0, 0, &[vec![1; PAGE]]).hashes[0];
        assert_eq!(filter.by_content(&mut forged, &world), 0);
    }

    #[test]
    fn an_unwritten_mapping_of_it_is_not_read() {
        let (mut world, mut filter) = made();
        for page in 0..3 {
            world.mapped.insert((0, page), (0, page + 1));
        }
        world.mapped.insert((0, 3), (0, 4)); // beyond the template
        let mut batch = Batch::default();
        batch.reset(0, 0, 4);
        batch.facts = vec![Fact::File, Fact::Unknown, Fact::File, Fact::File];
        assert_eq!(filter.by_facts(&mut batch, &world), 2);
        let at = |page| Some(Settled::Template { template: 0, page });
        assert_eq!(batch.settled, [at(1), None, at(3), None]);
        assert_eq!(batch.hashes[0], None, "page 1 of the template is zero");
        assert!(batch.hashes[2].is_some());
    }
}
