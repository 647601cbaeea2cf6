//! `memscan map` and `memscan record`: each page's facts, for pipes and for later.

use crate::args::{MapArgs, MapFormat, RecordArgs};
use crate::common::{self, Scene};
use anyhow::Result;
use pageherd::analyze::pages::{Detail, WalkError, walk};
use pageherd::analyze::{Options, Scan};
use pageherd::base::{Hva, Mechanism, Place};
use pageherd::cli::Exit;
use pageherd::cli::exit::{CannotWrite, Misuse};
use pageherd::cli::output::Sink;
use pageherd::placement::map::{self, MapFile, MapHeader, MapRun, MapVm};
use pageherd::placement::scanfile::{
    self, BlockHeader, Header, KsmTotals, PageState, Row, VmHeader,
};
use pageherd::source::host;
use serde::Serialize;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn run(args: &MapArgs) -> Result<Exit> {
    let format = if args.json { MapFormat::Jsonl } else { args.format };
    let (scene, scan) = look(&args.targets, &args.scan)?;
    let mut sink = Sink::open(&args.output, format == MapFormat::Placement)?;
    match format {
        MapFormat::Tsv => tsv(&scene, &scan, args, &mut sink),
        MapFormat::Jsonl => jsonl(&scene, &scan, args, &mut sink),
        MapFormat::Placement => placement(&scene, &scan, &mut sink),
    }
    .map_err(|e| about(e, &args.output))?;
    sink.finish()?;
    Ok(common::exit_after_reading(&scene, &scan))
}

pub(crate) fn record(args: &RecordArgs) -> Result<Exit> {
    let (scene, scan) = look(&args.targets, &args.scan)?;
    let mut sink = Sink::open(&args.output, false)?;
    let mut crc = crc32fast::Hasher::new();
    let mut rows = 0;
    let mut put = |text: &str, sink: &mut Sink| {
        crc.update(text.as_bytes());
        sink.write_all(text.as_bytes())
    };
    let failed = |e| CannotWrite::new(&args.output, e);
    put(&scanfile::write_header(&header(&scene)?), &mut sink).map_err(failed)?;
    let detail = Detail { unique_frames: false, absent: false };
    let mut line = String::new();
    walk(&scene.vms, &scan, &scene.host, detail, &mut |row| {
        line.clear();
        scanfile::write_row(row, &mut line);
        rows += 1;
        put(&line, &mut sink)
    })
    .map_err(|e| about(e.into(), &args.output))?;
    let end = scanfile::write_end(rows, crc.finalize());
    sink.write_all(end.as_bytes()).map_err(failed)?;
    sink.finish()?;
    Ok(common::exit_after_reading(&scene, &scan))
}

/// An error with what was being written, where writing is what failed.
fn about(error: anyhow::Error, output: &Path) -> anyhow::Error {
    let written = match error.downcast::<WalkError>() {
        Ok(WalkError::Write(cause)) => cause,
        Ok(other) => return other.into(),
        Err(error) => match error.downcast::<std::io::Error>() {
            Ok(cause) => cause,
            Err(other) => return other,
        },
    };
    CannotWrite::new(output, written).into()
}

/// A scan that answers for single pages. Its sightings must all be kept.
fn look(
    targets: &pageherd::cli::args::TargetArgs,
    args: &pageherd::cli::args::ScanArgs,
) -> Result<(Scene, Scan)> {
    if args.memory.is_some() {
        let words = "--memory cannot bound this: single pages are told from all of them";
        return Err(Misuse(words.into()).into());
    }
    let scene = common::open(targets, args.quiet)?;
    let options = Options { keep_sightings: true, ..args.options() };
    let scan = common::scan(&scene, args, &options)?;
    Ok((scene, scan))
}

fn header(scene: &Scene) -> Result<Header> {
    let taken = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let vms = scene.vms.iter().map(|vm| VmHeader {
        name: vm.name.clone(),
        pid: vm.pid,
        start_time: vm.start_time,
        blocks: vm
            .source
            .blocks()
            .iter()
            .map(|b| BlockHeader {
                name: b.name.clone(),
                first_page: b.pages.start,
                pages: b.pages.pages(),
                shared: b.shared,
            })
            .collect(),
    });
    let ksm = host::ksm().ok().map(|ksm| KsmTotals {
        running: ksm.run == pageherd::abi::ksm::Run::Running,
        full_scans: ksm.full_scans,
        pages_shared: ksm.pages_shared,
        pages_sharing: ksm.pages_sharing,
    });
    Ok(Header { taken, boot: boot.trim().to_owned(), vms: vms.collect(), ksm })
}

/// A row with names instead of numbers.
#[derive(Serialize)]
struct Named<'a> {
    vm: &'a str,
    block: &'a str,
    address: String,
    page: u64,
    pages: u64,
    state: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pfn: Option<String>,
    sharers: Vec<&'a str>,
    outside: bool,
}

impl<'a> Named<'a> {
    fn new(scene: &'a Scene, row: &Row) -> Self {
        let vm = &scene.vms[row.vm as usize];
        let block = &vm.source.blocks()[row.block as usize];
        Self {
            vm: &vm.name,
            block: &block.name,
            address: Hva::of_page(block.pages.start + row.page).to_string(),
            page: row.page,
            pages: row.pages,
            state: row.state.name(),
            kind: if row.file { "file" } else { "anon" },
            pfn: row.pfn.map(|pfn| pfn.to_string()),
            sharers: row.sharers.iter().map(|&vm| scene.vms[vm as usize].name.as_str()).collect(),
            outside: row.outside,
        }
    }
}

const HEADING: &str = "VM\tADDRESS\tPAGES\tSTATE\tKIND\tPFN\tSHARERS\tBLOCK\tPAGE\n";

fn tsv(scene: &Scene, scan: &Scan, args: &MapArgs, sink: &mut Sink) -> Result<()> {
    if !args.noheadings {
        sink.write_all(HEADING.as_bytes())?;
    }
    let detail = Detail { unique_frames: true, absent: args.absent };
    walk(&scene.vms, scan, &scene.host, detail, &mut |row| {
        let n = Named::new(scene, row);
        let mut sharers = n.sharers;
        if n.outside {
            sharers.push("+");
        }
        let sharers = if sharers.is_empty() { "-".to_owned() } else { sharers.join(",") };
        let pfn = n.pfn.as_deref().unwrap_or("-");
        let block = n.block;
        writeln!(
            sink,
            "{}\t{}\t{}\t{}\t{}\t{pfn}\t{sharers}\t{block}\t{}",
            n.vm, n.address, n.pages, n.state, n.kind, n.page
        )
    })?;
    Ok(())
}

fn jsonl(scene: &Scene, scan: &Scan, args: &MapArgs, sink: &mut Sink) -> Result<()> {
    let detail = Detail { unique_frames: true, absent: args.absent };
    walk(&scene.vms, scan, &scene.host, detail, &mut |row| {
        serde_json::to_writer(&mut *sink, &Named::new(scene, row))?;
        sink.write_all(b"\n")
    })?;
    Ok(())
}

/// Writes the placement map: runs go to their places as they come.
fn placement(scene: &Scene, scan: &Scan, sink: &mut Sink) -> Result<()> {
    let mut writer = PlacementWriter::new(scene);
    sink.write_all(&map::write_header(&writer.header))?;
    let detail = Detail { unique_frames: false, absent: true };
    let mut crc = crc32fast::Hasher::new();
    let (mut runs, mut bytes) = (0, Vec::new());
    walk(&scene.vms, scan, &scene.host, detail, &mut |row| {
        for run in writer.runs(scene, row) {
            bytes.clear();
            map::write_run(&run, &mut bytes);
            crc.update(&bytes);
            sink.write_all(&bytes)?;
            runs += 1;
        }
        Ok(())
    })?;
    sink.write_all(&map::write_end(runs, crc.finalize()))?;
    Ok(())
}

/// Numbers files and pool pages as the runs come.
struct PlacementWriter {
    header: MapHeader,
    files: HashMap<pageherd::abi::vma::FileId, u32>,
    pool: HashMap<u64, u64>,
}

impl PlacementWriter {
    fn new(scene: &Scene) -> Self {
        let mut header = MapHeader::default();
        let mut files = HashMap::new();
        for vm in &scene.vms {
            let blocks = vm.source.blocks();
            for block in blocks {
                if let Some(id) = block.file {
                    files.entry(id).or_insert_with(|| {
                        let (device, inode) = (id.device, id.inode);
                        header.files.push(MapFile { path: block.name.clone(), device, inode });
                        u32::try_from(header.files.len() - 1).unwrap_or(u32::MAX)
                    });
                }
            }
            header.vms.push(MapVm {
                name: vm.name.clone(),
                blocks: blocks.iter().map(|b| (b.name.clone(), b.pages.pages())).collect(),
            });
        }
        Self { header, files, pool: HashMap::new() }
    }

    /// The runs of a row: one, or several where pages of the pool do not follow one another.
    fn runs(&mut self, scene: &Scene, row: &Row) -> Vec<MapRun> {
        let mut runs: Vec<MapRun> = Vec::new();
        let whole = |place| MapRun {
            vm: row.vm,
            block: row.block,
            page: row.page,
            pages: row.pages,
            place,
        };
        let block = &scene.vms[row.vm as usize].source.blocks()[row.block as usize];
        let in_file = |file| {
            let page = block.file_page + row.page;
            match block.shared {
                true => Place::Local { file, page },
                false => Place::Template { file, page },
            }
        };
        let file = block.file.and_then(|id| self.files.get(&id).copied());
        match (row.state, file, row.pfn) {
            (PageState::Shared(Mechanism::Zero), ..) => vec![whole(Place::Zero)],
            // A page of a file that was not written since is in the file, whoever else maps it; one
            // that is not in the page table is there too, and not of no interest.
            (PageState::Absent, Some(file), _) => vec![whole(in_file(file))],
            (PageState::Shared(_) | PageState::Unique, Some(file), _) if row.file => {
                vec![whole(in_file(file))]
            }
            (PageState::Absent, None, _) => vec![whole(Place::Unused)],
            (PageState::Shared(Mechanism::Ksm | Mechanism::Fork), _, Some(pfn)) => {
                for i in 0..row.pages {
                    let next = self.pool.len() as u64;
                    let page = *self.pool.entry(pfn.0 + i).or_insert(next);
                    match runs.last_mut() {
                        Some(run) if run.place.after(run.pages) == (Place::Pool { page }) => {
                            run.pages += 1;
                        }
                        _ => runs.push(MapRun {
                            page: row.page + i,
                            pages: 1,
                            ..whole(Place::Pool { page })
                        }),
                    }
                }
                runs
            }
            _ => vec![whole(Place::Bytes)],
        }
    }
}
