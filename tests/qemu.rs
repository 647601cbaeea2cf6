//! memscan on real guests: QEMU with Linux in it, against a slow count of the same memory.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod support;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::qemu::{
    Build, Counted, Guest, Ram, Slow, Template, boot_all, file_pages, mapped_file, ready,
};
use support::{
    Holder, KSM, KsmOn, Setting, alone, fails, json, memscan, n, run, skip, wait_for, words,
};

/// [`ready`], where KSM is needed too.
fn ready_with_ksm(test: &str) -> bool {
    if !Path::new(KSM).exists() {
        skip(test, "this kernel has no KSM (CONFIG_KSM)");
        return false;
    }
    ready(test)
}

/// The target that names a guest.
fn target(name: &str, guest: &Guest) -> String {
    format!("{name}=pid:{}", guest.pid)
}

fn a_and_b(guests: &[Guest]) -> [String; 2] {
    [target("a", &guests[0]), target("b", &guests[1])]
}

/// The names of the VMs in a summary.
fn names(summary: &Value) -> BTreeSet<String> {
    let vms = summary["vms"].as_array().unwrap();
    vms.iter().map(|vm| vm["name"].as_str().unwrap().to_owned()).collect()
}

fn pids(summary: &Value) -> BTreeSet<i64> {
    summary["vms"].as_array().unwrap().iter().map(|vm| vm["pid"].as_i64().unwrap()).collect()
}

/// Stopped guests, counted slowly before and after `look`: what it returns is true of that count.
///
/// The kernel moves pages of stopped guests too. While khugepaged tries to collapse 2 MiB the page
/// table has nothing there, and where it gives up the pages are back as they were: no count before
/// or after shows that. KSM, khugepaged and compaction of its own accord are off for that time.
fn standing_still<T>(guests: &[Guest], mut look: impl FnMut() -> T) -> (Vec<Counted>, T) {
    let _frozen: Vec<_> = guests.iter().map(Guest::freeze).collect();
    let _settings = [
        Setting::try_new(&format!("{KSM}/run"), "0"),
        Setting::try_new("/sys/kernel/mm/transparent_hugepage/enabled", "never"),
        Setting::try_new("/proc/sys/vm/compaction_proactiveness", "0"),
    ];
    let count = || guests.iter().map(|g| Slow::default().count(g)).collect::<Vec<_>>();
    for _ in 0..20 {
        let before = count();
        let seen = look();
        if count() == before {
            return (before, seen);
        }
    }
    panic!("memory of stopped guests never stood still");
}

/// Everything that summary and matrix say of two guests, against the slow count.
fn agrees(counted: &[Counted], summary: &Value, matrix: &Value) {
    let union: BTreeSet<u64> = counted.iter().flat_map(|c| &c.frames).copied().collect();
    assert_eq!(n(&summary["footprint_pages"]), union.len() as u64);
    let naive: u64 = counted.iter().map(|c| c.resident - c.zero).sum();
    assert_eq!(n(&summary["naive_pages"]), naive);
    for (i, c) in counted.iter().enumerate() {
        let vm = &summary["vms"][i];
        let others: BTreeSet<u64> = counted
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != i)
            .flat_map(|(_, c)| &c.frames)
            .copied()
            .collect();
        let unique = c.frames.difference(&others).count() as u64;
        assert_eq!(n(&vm["resident_pages"]), c.resident);
        assert_eq!(n(&vm["by"]["zero"]), c.zero);
        assert_eq!(n(&vm["unique_pages"]), unique);
        assert_eq!(n(&vm["shared_pages"]), c.resident - unique);
        assert_eq!(n(&vm["changed_pages"]), 0);
        assert_eq!(n(&vm["outside_pages"]), 0);
        for (j, d) in counted.iter().enumerate() {
            let pages = n(&matrix["pages"][i][j]);
            let common = c.frames.intersection(&d.frames).count() as u64;
            assert_eq!(pages, if i == j { c.resident } else { common }, "pair {i}, {j}");
        }
    }
}

fn summary_and_matrix(targets: &[String]) -> (Value, Value) {
    let args = |command: &'static str| -> Vec<&str> {
        [command, "--json", "--quiet"]
            .into_iter()
            .chain(targets.iter().map(String::as_str))
            .collect()
    };
    (json(&args("summary")), json(&args("matrix")))
}

/// Address and length of the blocks that `map` tells of, in pages: all of them, absent ones too.
fn blocks(target: &str) -> BTreeMap<String, u64> {
    let mut pages: BTreeMap<String, u64> = BTreeMap::new();
    for line in run(&["map", "--json", "--absent", target]).lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let address = row["address"].as_str().unwrap().trim_start_matches("0x");
        let start = u64::from_str_radix(address, 16).unwrap() / 4096 - n(&row["page"]);
        *pages.entry(format!("{start:x}")).or_default() += n(&row["pages"]);
    }
    pages
}

#[test]
fn a_qemu_is_known_by_its_program_and_its_guest_ram_by_the_mark_it_sets() {
    let _alone = alone();
    if !ready("a_qemu_is_known_by_its_program_and_its_guest_ram_by_the_mark_it_sets") {
        return;
    }
    let vga = ["-device", "VGA", "-device", "e1000,romfile="];
    let web1 = Build::new("guest=web1", 1).more(&vga);
    let guests = boot_all(&[
        web1.clone(),
        Build::new("renamed,process=y,debug-threads=on", 2).more(&["-M", "mem-merge=off"]),
        Build { name: "guest=a,,b".into(), ..Build::new("", 3) },
    ]);
    let pid = format!("pid:{}", guests[0].pid);

    // exactly the RAM: all that -m gave, the video memory, the ROMs, and not the code buffer
    let ram: BTreeMap<String, u64> =
        guests[0].ram().iter().map(|m| (format!("{:x}", m.start), m.pages())).collect();
    assert_eq!(blocks(&pid), ram);
    assert!(ram.values().any(|&pages| pages == 160 << 8), "-m 160M is one of them");
    assert!(ram.values().any(|&pages| pages == 16 << 8), "so is the video memory");
    assert_eq!(blocks(&format!("pid:{}", guests[1].pid)).len(), guests[1].ram().len());

    // all of its memory where that is asked for, code buffer and all
    let whole = blocks(&format!("{pid},all"));
    let ram_pages: u64 = ram.values().sum();
    assert!(whole.values().sum::<u64>() > ram_pages + (1 << 18), "the code buffer has 1 GiB");
    assert!(ram.iter().all(|(start, pages)| whole.get(start) == Some(pages)));

    // -name tells its name; process= hides the command name and not the program
    let name = |i: usize| names(&json(&["summary", "--json", &format!("pid:{}", guests[i].pid)]));
    assert_eq!(name(0), ["web1".into()].into());
    assert_eq!(name(1), ["renamed".into()].into());
    assert_eq!(name(2), ["a_b".into()].into(), "two commas are one, which a name cannot have");
    let comm = |i: usize| fs::read_to_string(format!("/proc/{}/comm", guests[i].pid)).unwrap();
    assert_eq!((comm(0).trim(), comm(1).trim()), ("qemu-system-x86", "y"));

    // by command name: those that have it
    let found = pids(&json(&["summary", "--json", "--quiet", "comm:qemu-*"]));
    assert!(found.contains(&guests[0].pid.into()) && found.contains(&guests[2].pid.into()));
    assert!(!found.contains(&guests[1].pid.into()));
    assert_eq!(names(&json(&["summary", "--json", "comm:y"])), ["renamed".into()].into());

    // whether KSM may merge it is told for each
    let others = format!("pid:{}", guests[1].pid);
    let why = json(&["why", "--json", "--read", "4M", &pid, &others]);
    let blocked = |vm: usize| {
        let region = &why["vms"][vm]["regions"][0];
        (region["mergeable"].clone(), region["blockers"][0] == "not-mergeable")
    };
    assert_eq!(blocked(0), (true.into(), false));
    assert_eq!(blocked(1), (false.into(), true));
}

/// Every process whose program is a QEMU.
fn all_qemus() -> BTreeSet<i64> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|e| {
        let exe = fs::read_link(e.path().join("exe")).ok()?;
        let is = exe.file_name()?.to_str()?.starts_with("qemu-system-");
        e.file_name().to_str()?.parse().ok().filter(|_| is)
    })
    .collect()
}

#[test]
fn without_a_target_every_qemu_of_the_host_is_found_and_nothing_else() {
    let _alone = alone();
    if !ready("without_a_target_every_qemu_of_the_host_is_found_and_nothing_else") {
        return;
    }
    // Two of one name, as while a guest moves within a host; one without a name; and what only
    // looks like a QEMU: a script of that name, and a QEMU without a guest, as libvirt starts one
    // to ask what it can.
    let twins = boot_all(&[Build::new("twin", 1), Build::new("twin", 1)]);
    let _holder = Holder::new(&["anon:1000"]);
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("qemu-system-x86_64");
    fs::write(&script, "#!/bin/sh\nread line\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut script = Command::new(script).stdin(Stdio::piped()).spawn().unwrap();
    let mut asked = Command::new("qemu-system-x86_64")
        .args(["-S", "-machine", "none", "-nodefaults", "-display", "none"])
        .spawn()
        .unwrap();
    let comm = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    for child in [&script, &asked] {
        wait_for("the program", Duration::from_secs(10), || {
            comm(child.id()).trim() == "qemu-system-x86"
        });
    }
    wait_for("QEMU to wait", Duration::from_secs(10), || {
        fs::read_dir(format!("/proc/{}/task", asked.id())).unwrap().count() > 1
    });
    let mut expected = all_qemus();
    let found = json(&["--json", "--quiet"]);
    let out = memscan().output().unwrap();
    let kill = |child: &mut std::process::Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let asked_pid = i64::from(asked.id());
    kill(&mut script);
    kill(&mut asked);
    assert!(expected.remove(&asked_pid));
    assert_eq!(pids(&found), expected);
    let named = |g: &Guest| format!("twin-{}", g.pid);
    assert!(names(&found).is_superset(&twins.iter().map(named).collect()), "{found}");
    assert!(out.status.success(), "{}", words(&out));
}

#[test]
fn guests_merged_by_ksm_share_their_equal_pages_and_never_notice_a_scan() {
    let _alone = alone();
    if !ready_with_ksm("guests_merged_by_ksm_share_their_equal_pages_and_never_notice_a_scan") {
        return;
    }
    let build = Build::new("guest=a", 1);
    let guests = boot_all(&[build.clone(), Build { name: "guest=b".into(), seed: 2, ..build }]);
    let [a, b] = &a_and_b(&guests);
    let half = (48 << 8) / 2;
    let pair = || n(&json(&["matrix", "--json", a, b])["by"]["ksm"][0][1]);
    assert_eq!(pair(), 0, "nothing has merged before KSM runs");
    let ksm = KsmOn::new();
    // guest RAM is in huge pages: those that have anything to merge are split
    ksm.wait("the equal half", || pair() >= half);
    ksm.wait_scans(2);

    // the observer disturbs nothing: whatever it does, the guests find their memory right
    let record = tempfile::NamedTempFile::new().unwrap();
    let record = record.path().to_str().unwrap();
    let settings = || -> Vec<String> {
        ["run", "pages_to_scan", "use_zero_pages", "max_page_sharing", "merge_across_nodes"]
            .iter()
            .map(|file| fs::read_to_string(format!("{KSM}/{file}")).unwrap())
            .collect()
    };
    let flags = || -> Vec<_> {
        let ram = guests.iter().flat_map(Guest::ram);
        ram.map(|m| (m.start, m.end, ["mg", "hg", "dc", "nh"].map(|f| m.has(f)))).collect()
    };
    let (settings_before, flags_before) = (settings(), flags());
    let before: Vec<usize> = guests.iter().map(Guest::ticks).collect();
    let mut rounds = 0;
    while guests.iter().zip(&before).any(|(g, &before)| g.ticks() < before + 4) {
        for _ in 0..10 {
            run(&["summary", a, b]);
        }
        for args in [
            &["summary", "--json"][..],
            &["matrix"],
            &["map"],
            &["record", "-o", record],
            &["why", "--read", "64M"],
        ] {
            run(&[args, &[a, b]].concat());
        }
        rounds += 1;
        assert!(rounds < 200, "the guests stand still");
    }
    assert_eq!((settings(), flags()), (settings_before, flags_before));

    // the numbers are those of a slow count
    let (counted, (summary, matrix)) =
        standing_still(&guests, || summary_and_matrix(&[a.clone(), b.clone()]));
    agrees(&counted, &summary, &matrix);
    let ksm_pages = n(&matrix["by"]["ksm"][0][1]);
    assert!(ksm_pages >= half && ksm_pages == n(&matrix["pages"][0][1]), "{matrix}");
    let kept = n(&summary["footprint_pages"]);
    let what_if = json(&["what-if", "--json", a, b]);
    assert!(n(&what_if["destination_pages"]["kept"]).abs_diff(kept) < 2000, "{what_if}");
}

#[test]
fn ram_mapped_shared_is_never_merged_and_why_says_so_page_by_page() {
    let _alone = alone();
    if !ready_with_ksm("ram_mapped_shared_is_never_merged_and_why_says_so_page_by_page") {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("ram");
    let guests = boot_all(&[
        Build::new("guest=a", 1).ram(Ram::Memfd { share: true }),
        Build::new("guest=b", 2).ram(Ram::File { path: file.clone(), share: true }),
    ]);
    let [a, b] = &a_and_b(&guests);
    let ksm = KsmOn::new();
    ksm.wait_scans(3);
    let mains: Vec<_> = guests.iter().map(Guest::main_ram).collect();
    assert_eq!(mains[0].name, "/memfd:memory-backend-memfd (deleted)");
    assert_eq!(mains[1].name, file.to_str().unwrap());
    assert!(mains.iter().all(|m| m.shared));

    let in_files = || -> Vec<u64> {
        let files = guests.iter().zip(&mains).map(|(g, m)| mapped_file(g.pid, m));
        files.map(|file| file_pages(&file).len() as u64).collect()
    };
    let (counted, (summary, matrix, why, what_if, shmem, contents)) =
        standing_still(&guests, || {
            let before = in_files();
            let (summary, matrix) = summary_and_matrix(&[a.clone(), b.clone()]);
            let shmem = (before, in_files());
            let why = json(&["why", "--json", a, b]);
            let what_if = json(&["what-if", "--json", "--leave", "a", a, b]);
            (summary, matrix, why, what_if, shmem, Slow::default().contents(&guests))
        });
    agrees(&counted, &summary, &matrix);

    // nothing of the RAM has merged; ROMs and the like are private and may
    assert_eq!(n(&matrix["by"]["shmem"][0][1]), 0);
    let small = guests[0].ram().iter().filter(|m| !m.shared).map(|m| m.pages()).sum::<u64>();
    assert!(n(&matrix["pages"][0][1]) <= small);

    // the right cause, the right regions, the right number: of the frames of one content one stays
    let cause = |cause: &str| {
        let causes = why["causes"].as_array().unwrap().iter();
        causes.into_iter().find(|c| c["cause"] == cause).cloned().unwrap_or_default()
    };
    let expected: u64 = contents
        .values()
        .map(|frames| {
            let shared = frames.iter().filter(|&&shared| shared).count() as u64;
            if shared == frames.len() as u64 { shared - 1 } else { shared }
        })
        .sum();
    let mapped_shared = cause("mapped-shared");
    assert_eq!(n(&mapped_shared["pages"]), expected);
    assert!(expected >= (48 << 8) / 2, "the equal half of the work at least");
    let frames: u64 = contents.values().map(|frames| frames.len() as u64).sum();
    assert_eq!(n(&why["equal_pages"]), frames - contents.len() as u64);
    let regions = mapped_shared["regions"].as_array().unwrap();
    let places: BTreeSet<(&str, &str)> = regions
        .iter()
        .map(|r| (r["vm"].as_str().unwrap(), r["region"].as_str().unwrap()))
        .collect();
    let all = [("a", mains[0].name.as_str()), ("b", mains[1].name.as_str())];
    assert!(places.is_subset(&all.into()) && places.contains(&all[1]), "{places:?}");
    for (vm, main) in why["vms"].as_array().unwrap().iter().zip(&mains) {
        let region = &vm["regions"][0];
        assert_eq!(region["name"], main.name.as_str());
        assert_eq!(n(&region["pages"]), main.pages());
        assert!(region["blockers"].as_array().unwrap().contains(&"mapped-shared".into()));
    }
    assert!(why["double"].as_array().unwrap().is_empty());

    // moving one frees what it has, file and all, and sharing has nothing to keep
    let freed_cache = n(&what_if["source_freed_cache_pages"]);
    assert_eq!(freed_cache, counted[0].file_frames.len() as u64);
    let unmerged = counted[0].resident - counted[0].zero;
    assert_eq!(n(&what_if["destination_pages"]["naive"]), unmerged);
    for (i, counted) in counted.iter().enumerate() {
        let mapped = counted.file_frames.len() as u64;
        let unmapped = n(&summary["vms"][i]["unmapped_pages"]);
        between(unmapped, shmem.0[i] - mapped, shmem.1[i] - mapped);
    }
    assert!(guests.iter().all(|g| g.ticks() > 0));
}

/// Asserts that a number lies between a count before it was taken and one after. The kernel may drop
/// pages of a tmpfs file that nobody has written to, also under guests that stand still
/// (`mm/shmem.c`, `shmem_recalc_inode`).
fn between(number: u64, before: u64, after: u64) {
    assert!(after <= number && number <= before, "{after} <= {number} <= {before}");
}

/// Pages of a guest's main RAM that are copied above a page of the file: those that are zero in the
/// file, and the others.
fn copied_above_file(guest: &Guest) -> (u64, u64) {
    let main = guest.main_ram();
    let file = mapped_file(guest.pid, &main);
    let in_file = file_pages(&file);
    let (mut zero, mut other) = (0, 0);
    for (_, page, entry) in Slow::entries(guest.pid, std::slice::from_ref(&main)) {
        let in_the_file = page - main.start + main.file_page;
        if entry.frame().is_none() || entry.is_file() || !in_file.contains(&in_the_file) {
            continue;
        }
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, in_the_file * 4096).unwrap();
        if bytes == [0; 4096] { zero += 1 } else { other += 1 }
    }
    (zero, other)
}

fn double(why: &Value) -> Vec<(&str, &str, u64)> {
    let all = why["double"].as_array().unwrap().iter();
    all.map(|d| (d["vm"].as_str().unwrap(), d["file"].as_str().unwrap(), n(&d["pages"]))).collect()
}

#[test]
fn a_private_mapping_of_a_memfd_is_there_twice_and_other_ram_is_not() {
    let _alone = alone();
    if !ready("a_private_mapping_of_a_memfd_is_there_twice_and_other_ram_is_not") {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("ram");
    let guests = boot_all(&[
        Build::new("guest=a", 1).ram(Ram::Memfd { share: false }),
        Build::new("guest=b", 2).ram(Ram::File { path: path.clone(), share: false }),
        Build::new("guest=c", 3),
    ]);
    let targets: Vec<String> =
        ["a", "b", "c"].iter().zip(&guests).map(|(name, g)| target(name, g)).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let copied = || [copied_above_file(&guests[0]), copied_above_file(&guests[1])];
    let (counted, (before, why, after)) = standing_still(&guests, || {
        let before = copied();
        (before, json(&[&["why", "--json"], &targets[..]].concat()), copied())
    });
    // A write to a hole of a private file mapping first makes the page in the file, then its copy.
    let memfd = "/memfd:memory-backend-memfd (deleted)";
    let file = path.to_str().unwrap();
    let places = [("a", memfd), ("b", file)];
    let double = double(&why);
    assert_eq!(double.len(), 2, "{double:?}");
    for (i, &(vm, file, pages)) in double.iter().enumerate() {
        assert_eq!((vm, file), places[i]);
        between(pages, before[i].0, after[i].0);
    }
    for ((twice, other), counted) in before.iter().zip(&counted) {
        let copied = (counted.frames.len() - counted.file_frames.len()) as u64;
        assert!(*twice > copied / 2, "most of what was written: {twice}");
        assert_eq!(*other, 0, "nobody has written to the file");
    }
}

#[test]
fn clones_of_a_template_share_what_neither_has_written() {
    let _alone = alone();
    if !ready("clones_of_a_template_share_what_neither_has_written") {
        return;
    }
    let template = Template::new(Build::new("guest=template", 1));
    let guests = [template.start("guest=a"), template.start("guest=b")];
    let path = template.path();
    let path = path.to_str().unwrap();
    let [a, b] = &a_and_b(&guests);
    let image = &format!("t=image:{path}");
    let in_file = || file_pages(&fs::File::open(path).unwrap()).len() as u64;
    let (counted, (summary, matrix, what_if, why, one, joined, before, after)) =
        standing_still(&guests, || {
            let before = (in_file(), copied_above_file(&guests[0]));
            let (summary, matrix) = summary_and_matrix(&[a.clone(), b.clone()]);
            let what_if = json(&["what-if", "--json", "--template", path, a, b]);
            let why = json(&["why", "--json", a, b]);
            let one = json(&["why", "--json", a]);
            let joined = json(&["matrix", "--json", "--groups", a, b, image]);
            let after = (in_file(), copied_above_file(&guests[0]));
            (summary, matrix, what_if, why, one, joined, before, after)
        });
    agrees(&counted, &summary, &matrix);

    // through the file, by name
    let in_both = counted[0].file_frames.intersection(&counted[1].file_frames).count() as u64;
    assert_eq!(n(&matrix["by"]["file"][0][1]), in_both);
    assert_eq!(in_both, n(&matrix["pages"][0][1]));
    assert!(in_both >= 48 << 8, "the work was filled before and only read since: {in_both}");
    for vm in summary["vms"].as_array().unwrap() {
        assert_eq!(vm["files"][0]["path"], path);
        assert_eq!(n(&vm["files"][0]["pages"]), in_both);
        assert_eq!(n(&vm["by"]["file"]), in_both);
    }

    // where the destination has the template, what was written is all that goes
    let written = |c: &Counted| (c.frames.len() - c.file_frames.len()) as u64;
    assert_eq!(n(&what_if["send_pages"]["kept"]), counted.iter().map(written).sum::<u64>());
    let union = counted[0].file_frames.union(&counted[1].file_frames).count() as u64;
    assert_eq!(n(&what_if["template_pages"]), union);
    for (alone, counted) in what_if["alone"].as_array().unwrap().iter().zip(&counted) {
        assert_eq!(n(&alone["send_pages"]["kept"]), written(counted));
    }
    let remains = n(&json(&["what-if", "--json", a, b])["send_pages"]["kept"]);
    assert!(remains > n(&what_if["send_pages"]["kept"]) + (48 << 8));

    // A template is not memory that is there twice, though a clone copies what it writes. What a
    // clone writes into a hole of the template is, and into a page of zeros.
    assert!(double(&why).is_empty(), "{}", why["double"]);
    assert!(before.1.1 > 0, "the clone has written to pages of the template");
    between(double(&one).iter().map(|d| d.2).sum(), before.1.0, after.1.0);

    // the image itself as a target: all its pages, and those that the clones have of it
    between(n(&joined["pages"][2][2]), before.0, after.0);
    for (i, counted) in counted.iter().enumerate() {
        assert_eq!(n(&joined["by"]["file"][i][2]), counted.file_frames.len() as u64);
    }
    assert_eq!(n(&joined["pages"][0][1]), in_both);
    let groups = joined["groups"].as_array().unwrap();
    let all = groups.iter().find(|g| g["vms"].as_array().unwrap().len() == 3).unwrap();
    assert_eq!(n(&all["pages"]), in_both);
    assert!(groups.iter().all(|g| g["outside"] == false));
}

#[test]
fn a_qemu_that_dies_in_the_middle_is_named_and_the_others_are_counted() {
    let _alone = alone();
    if !ready("a_qemu_that_dies_in_the_middle_is_named_and_the_others_are_counted") {
        return;
    }
    let b = Build::new("guest=b", 2).boot();
    // No guest has to run for this: all of its RAM is there from the start.
    let victim = || {
        let object = "memory-backend-ram,id=pc.ram,size=256M,prealloc=on";
        let more = ["-S", "-object", object, "-M", "memory-backend=pc.ram"];
        let guest = Build { mib: 256, ..Build::new("guest=a", 1) }.more(&more).spawn();
        drop(guest.qmp());
        guest
    };
    let mut codes: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    let moments = [
        ("summary", 0),
        ("summary", 1),
        ("matrix", 2),
        ("summary", 3),
        ("why", 1),
        ("why", 3),
        ("why", 6),
        ("map", 2),
        ("map", 5),
    ];
    for (command, eighths) in moments {
        let mut a = victim();
        let targets = [target("a", &a), target("b", &b)];
        // how long it takes undisturbed tells where the middle is
        let begun = Instant::now();
        run(&[command, &targets[0], &targets[1]]);
        let whole = begun.elapsed();
        let child = memscan()
            .arg(command)
            .args(&targets)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * eighths / 8);
        a.begin_to_die();
        let out = child.wait_with_output().unwrap();
        a.kill();
        let code = out.status.code().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        codes.entry(command).or_default().insert(code);
        match code {
            0 => {}
            3 => assert!(said.contains("a exited while it was"), "{said}"),
            66 => assert!(said.contains(&format!("process {}", a.pid)), "{said}"),
            _ => panic!("{command} after {eighths}/8: {}", words(&out)),
        }
        assert!(!said.contains("panicked"), "{said}");
    }
    // a long look is surely met in the middle
    assert!(codes["why"].contains(&3) || codes["why"].contains(&66), "{codes:?}");
    let (code, said) = fails(&["summary", "pid:999999999"]);
    assert_eq!(code, 66, "{said}");
    b.wait_ticks(b.ticks() + 1);
    assert!(Path::new(&format!("/proc/{}", b.pid)).exists());
}
