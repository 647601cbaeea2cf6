//! Memories to be sent, whole: processes, images, herds.

use super::packer::{Earlier, Packer};
use super::parcel::Parcel;
use super::reader::{Reader, SentHashes, Sight};
use super::{Item, Link, Options, Out, SendError, SendVm, Supply, Watch, packings};
use crate::filter::bill::Account;
use crate::filter::chain::Name;
use crate::filter::{Filter, same::Same, shared::Shared, template::Template, zero};
use crate::wire::header::feature;
use crate::wire::record::VmShape;

/// Memories that are there as a whole.
pub(super) struct Memories<'a> {
    vms: &'a [SendVm<'a>],
    options: &'a Options,
    watch: &'a dyn Watch,
}

impl<'a> Memories<'a> {
    pub(super) fn new(vms: &'a [SendVm<'a>], options: &'a Options, watch: &'a dyn Watch) -> Self {
        Self { vms, options, watch }
    }

    fn own(&self) -> impl Iterator<Item = u32> + use<'a> {
        (0u32..).zip(self.vms).filter(|(_, vm)| !vm.foreign).map(|(number, _)| number)
    }
}

impl Supply for Memories<'_> {
    fn shapes(&self) -> Vec<VmShape> {
        self.vms.iter().map(shape).collect()
    }

    fn features(&self) -> u64 {
        let foreign = self.vms.iter().any(|vm| vm.foreign);
        let foreign = if foreign { feature::FOREIGN } else { 0 };
        foreign | if self.options.live { feature::ROUNDS } else { 0 }
    }

    fn stood_still(&self) -> Result<(), SendError> {
        for vm in self.vms {
            let still = vm.feed.stood_still();
            still.map_err(|why| SendError::Source(format!("VM {}: {why}", vm.name)))?;
        }
        Ok(())
    }

    fn run(&mut self, link: &Link, out: &dyn Out) -> Result<Vec<Account>, SendError> {
        let (vms, options) = (self.vms, self.options);
        let sight = Sight { vms, templates: &options.templates, still: options.still };
        let keep = options.keep_filters;
        let mut reader = Reader::new(sight, filters(vms, options), &options.hashing, link, keep);
        let packings = packings(&options.chain);
        let has_template = options.chain.has(&Name::Template);
        let prefixes = if has_template { options.templates.as_slice() } else { &[] };
        let remembers = options.live && options.chain.has(&Name::Xor);
        let earlier = remembers.then(|| Earlier::new(options.remember));
        let mut packer = Packer::new(&options.codecs, &packings, prefixes, link, keep, earlier);
        let spare = || out.spare();
        for (number, vm) in (0u32..).zip(vms) {
            if vm.foreign {
                reader.learn_foreign(number)?;
            }
        }
        let mut sent: Vec<Option<SentHashes>> =
            vms.iter().map(|vm| options.live.then(|| SentHashes::new(vm.pages()))).collect();
        let put_or_stop = |item| if out.put(item) { Ok(()) } else { Err(SendError::Stopped) };
        let mut failed = None;
        let mut send = |packer: &mut Packer<'_>, mut parcel: Parcel| match packer.pack(&mut parcel)
        {
            Ok(()) => out.put(Item::Parcel(parcel)),
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        let mut read = || -> Result<(), SendError> {
            if options.live {
                for vm in self.own() {
                    let out = |parcel| send(&mut packer, parcel);
                    reader.read(vm, &mut sent[vm as usize], out, spare)?;
                }
                self.watch.hold().map_err(SendError::Source)?;
                put_or_stop(Item::LastRound)?;
                packer.last_round();
                reader.last_round(filters(vms, options));
            }
            for vm in self.own() {
                let out = |parcel| send(&mut packer, parcel);
                let done = reader.read(vm, &mut sent[vm as usize], out, spare)?;
                put_or_stop(Item::Done(done))?;
            }
            Ok(())
        };
        let result = read();
        match (result, failed) {
            (_, Some(error)) => Err(error),
            (result, None) => result.map(|()| [reader.accounts(), packer.accounts()].concat()),
        }
    }
}

fn shape(vm: &SendVm<'_>) -> VmShape {
    let blocks = vm.feed.blocks();
    VmShape { name: vm.name.clone(), foreign: vm.foreign, blocks }
}

fn filters(vms: &[SendVm<'_>], options: &Options) -> Vec<Box<dyn Filter>> {
    let hashes = || options.templates.iter().map(|t| t.hashes.clone()).collect();
    let pages: Vec<u64> = vms.iter().map(SendVm::pages).collect();
    let filter = |name: &Name| -> Option<Box<dyn Filter>> {
        Some(match name {
            Name::Unused => Box::<zero::Unused>::default(),
            Name::Zero => Box::<zero::Zero>::default(),
            Name::Shared if options.unproven => Box::new(Shared::unproven(&pages)),
            Name::Shared => Box::new(Shared::new(&pages, options.verify)),
            // there is none to look at
            Name::Template if options.templates.is_empty() => return None,
            Name::Template => Box::new(Template::new(hashes(), options.verify)),
            Name::Same => Box::new(Same::new(&pages, vms.iter().map(|vm| vm.group).collect())),
            Name::Xor | Name::Lz4 | Name::Zstd(_) | Name::Exec(_) => return None,
        })
    };
    options.chain.names.iter().filter_map(filter).collect()
}
