//! A VMM's stream kept in a herd: its memory as that of any VM, all else beside it; whole or not at all,
//! whatever is killed.

use super::*;
use pageherd::qemu::stream::{End, Item, Parser, RamBlock};
use pageherd::store::{Store, herd::Herd};
use std::ops::ControlFlow;
use support::skip;

/// What a QEMU's stream says.
#[derive(Default)]
struct Said {
    blocks: Vec<RamBlock>,
    /// Of all blocks, as it was sent last; what never came is zero.
    memory: Vec<u8>,
    /// Records of pages.
    pages: usize,
    /// All that is no page.
    rest: Vec<u8>,
    end: Option<End>,
}

fn taken_apart(stream: &[u8]) -> Said {
    let (mut parser, mut said) = (Parser::new(), Said::default());
    let mut take = |item: Item<'_>| {
        let said = &mut said;
        let page = match item {
            Item::Raw(bytes) | Item::Ask(bytes) => {
                said.rest.extend(bytes);
                return ControlFlow::Continue(());
            }
            Item::Blocks(blocks) => {
                said.blocks = blocks.to_vec();
                let bytes: u64 = blocks.iter().map(|block| block.bytes).sum();
                said.memory.resize(usize::try_from(bytes).unwrap(), 0);
                return ControlFlow::Continue(());
            }
            Item::Page { block, page, bytes, .. } => Some((block, page, &bytes[..])),
            Item::Zero { block, page, .. } => Some((block, page, &[0; PAGE][..])),
            _ => None,
        };
        if let Some((block, page, bytes)) = page {
            let before: u64 = said.blocks[..block as usize].iter().map(|block| block.bytes).sum();
            let at = usize::try_from(before).unwrap() + usize::try_from(page).unwrap() * PAGE;
            said.memory[at..at + PAGE].copy_from_slice(bytes);
            said.pages += 1;
        }
        ControlFlow::Continue(())
    };
    let used = parser.feed(stream, &mut take).unwrap();
    let end = parser.finish(&stream[used..], &mut take).unwrap();
    said.end = Some(end);
    said
}

/// All streams of QEMU that the repository has.
fn streams() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qemu");
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = all.filter(|path| path.extension().is_some_and(|e| e == "qevm"));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let all: Vec<_> = all.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
    assert!(all.len() >= 7, "the streams are not here");
    all
}

/// What QEMU writes, as a stream in a file.
fn sent(folder: &Folder, stream: &[u8], file: &str, more: &[&str]) {
    fs::write(folder.path("qevm"), stream).unwrap();
    let to = format!("file:{}", folder.at(file));
    let mut sender = mig_send(&[&["--qemu", "--vm", "web1", "--to", &to], more].concat());
    sender.stdin(File::open(folder.path("qevm")).unwrap());
    Run::new(sender).well();
}

#[test]
fn the_memory_of_a_vmms_stream_is_a_herd_and_all_else_is_beside_it() {
    for (name, stream) in streams() {
        let (folder, said) = (Folder::new(), taken_apart(&stream));
        sent(&folder, &stream, "x.herd", &[]);
        let from = format!("file:{}", folder.at("x.herd"));
        let out = Run::new(mig_recv(&["--from", &from, "--into", &folder.at("h")])).well();
        assert!(support::words(&out).contains("is in web1.qemu"), "{name}");
        assert!(in_herd(&folder.path("h"), "web1") == said.memory, "{name}: other memory");
        let beside = fs::read(folder.path("h").join("web1.qemu")).unwrap();
        assert!(beside == said.rest, "{name}: what is no page is another");
        let again = taken_apart(&beside);
        assert_eq!((again.pages, again.end), (0, said.end), "{name}");
        assert_eq!(again.blocks, said.blocks, "{name}");
        // who reads the memory is not disturbed, nor who explains the stream
        let words = support::run(&["summary", &format!("herd:{}", folder.at("h"))]);
        assert!(words.contains("web1"), "{words}");
        let out = Run::new(mig_recv(&["--explain", &folder.at("x.herd")])).well();
        assert!(String::from_utf8(out.stdout).unwrap().contains("ready: what follows"), "{name}");
        assert_eq!(folder.names("h"), ["journal", "lock", "pool", "web1.map", "web1.qemu"]);
    }
}

#[test]
fn a_vmms_stream_is_kept_from_a_medium_with_answers_too() {
    let (_, stream) = streams().remove(0);
    let (folder, said) = (Folder::new(), taken_apart(&stream));
    fs::write(folder.path("qevm"), &stream).unwrap();
    let socket = folder.path("s");
    let receiver = listening(&socket, &["--into", &folder.at("h")]);
    let to = format!("unix:{}", socket.display());
    let mut sender = mig_send(&["--qemu", "--vm", "web1", "--to", &to]);
    sender.stdin(File::open(folder.path("qevm")).unwrap());
    Run::new(sender).well();
    receiver.well();
    assert!(in_herd(&folder.path("h"), "web1") == said.memory);
    let beside = taken_apart(&fs::read(folder.path("h").join("web1.qemu")).unwrap());
    assert_eq!((beside.pages, beside.blocks), (0, said.blocks));
}

#[test]
fn an_image_has_no_place_for_what_a_vmm_says_and_a_group_needs_its_members() {
    let (_, stream) = streams().remove(0);
    let folder = Folder::new();
    sent(&folder, &stream, "x.herd", &[]);
    let from = format!("file:{}", folder.at("x.herd"));
    let image = format!("web1={}", folder.at("web1.img"));
    let out = Run::new(mig_recv(&["--from", &from, "--image", &image])).end();
    assert!(!out.status.success() && words(&out).contains("no place for its device state"));
    assert!(!folder.path("web1.img").exists());

    let group = folder.at("g");
    sent(&folder, &stream, "y.herd", &["--group", &group]);
    let from = format!("file:{}", folder.at("y.herd"));
    let out = Run::new(mig_recv(&["--from", &from, "--into", &folder.at("h")])).end();
    assert!(!out.status.success() && words(&out).contains("without --group"), "{}", words(&out));
    assert_eq!(folder.names("h"), ["journal", "lock", "pool"]);
}

/// Kills the receiver before its `nth` call of this name; false where there were not as many.
fn killed_at(folder: &Folder, call: &str, nth: usize, herd: &str) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(folder.path("strace"));
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={nth}")]);
    strace.arg(env!("CARGO_BIN_EXE_mig-recv"));
    strace.args(["--from", &format!("file:{}", folder.at("x.herd")), "--into", herd]);
    strace.arg("--no-sandbox");
    !Run::new(strace).end().status.success()
}

#[test]
fn a_killed_receiver_leaves_the_vm_with_its_state_or_nothing() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("a_killed_receiver_leaves_the_vm_with_its_state_or_nothing", "strace");
    }
    let (_, stream) = streams().into_iter().find(|(name, _)| name.contains("10.0-pc")).unwrap();
    let (folder, said) = (Folder::new(), taken_apart(&stream));
    sent(&folder, &stream, "x.herd", &[]);
    let (mut kills, mut kept) = (0, 0);
    for call in ["openat", "write", "pwrite64", "fsync", "fdatasync", "renameat2", "ftruncate"] {
        for nth in 1.. {
            let dir = folder.path(&format!("{call}-{nth}"));
            let herd = dir.to_str().unwrap();
            if !killed_at(&folder, call, nth, herd) {
                break;
            }
            kills += 1;
            // a VM that can be seen has its state, before anybody tidies up
            let has_state = || dir.join("web1.qemu").exists();
            assert!(!has(&dir, "web1") || has_state(), "{call} {nth}");
            drop(Herd::open(&dir, Vec::new()).unwrap());
            let names = folder.names(&format!("{call}-{nth}"));
            assert!(names.iter().all(|name| !name.starts_with('.')), "{call} {nth}: {names:?}");
            assert_eq!(has(&dir, "web1"), has_state(), "{call} {nth}: {names:?}");
            if has(&dir, "web1") {
                kept += 1;
            } else {
                // and it can be received once more
                assert!(!killed_at(&folder, "renameat2", 99, herd), "{call} {nth}");
            }
            assert!(in_herd(&dir, "web1") == said.memory, "{call} {nth}");
            assert!(fs::read(dir.join("web1.qemu")).unwrap() == said.rest, "{call} {nth}");
            assert!(Herd::open(&dir, Vec::new()).unwrap().takes_state());
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    println!("{kills} kills, {kept} of them after the commit");
    assert!(kills > 20 && kept > 1, "{kills} {kept}");
}
