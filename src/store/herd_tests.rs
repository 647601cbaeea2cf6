//! The herd as a store: whole sessions or none, after every interruption.

use super::*;
use crate::base::Places;

fn vm(places: &Places) -> Whole<'_> {
    Whole { name: "a", blocks: &[], places }
}

fn keep(herd: &Herd, name: &str, session: &str, first: u64) {
    herd.expect(name, &[]).unwrap();
    herd.put(name, 0, first, &[7; 8192]).unwrap();
    let blocks = [("x".to_owned(), 2), ("y".to_owned(), 2)];
    let mut places = Places::new(4);
    places.set(0, 1, Place::Zero);
    places.set(1, 2, Place::Pool { page: first });
    places.set(3, 1, Place::Unused);
    herd.prepare(session, &[Whole { name, blocks: &blocks, ..vm(&places) }]).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_session_is_there_whole_or_not_at_all() {
    for memory in ["/dev/shm", "/var/tmp"] {
        let dir = tempfile::tempdir_in(memory).unwrap();
        let path = dir.path().join("herd");
        let herd = Herd::open(&path, Vec::new()).unwrap();
        assert!(matches!(Herd::open(&path, Vec::new()), Err(StoreError::Busy(_))));
        keep(&herd, "a", "01", 0);
        keep(&herd, "b", "02", 5);
        herd.publish("01", &["a"]).unwrap();
        assert!(matches!(herd.expect("a", &[]), Err(StoreError::Exists(_))));
        drop(herd); // b was prepared and never committed
        let herd = Herd::open(&path, Vec::new()).unwrap();
        assert_eq!(names(&path), ["a.map", "journal", "lock", "pool"]);
        assert_eq!(herd.slots(), 2);
        let maps = herd.maps().unwrap();
        assert_eq!(maps[0].2.len(), 4, "a run ends with its block: {maps:?}");
        assert_eq!(herd.resolve("01").unwrap(), Some(true));
        assert_eq!(herd.resolve("02").unwrap(), Some(false));
        keep(&herd, "b", "02", 2);
        assert!(matches!(herd.publish("02", &["b"]), Err(StoreError::Resolved(_))));
    }
}

#[test]
fn what_was_committed_is_brought_to_its_end() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let herd = Herd::open(dir.path(), Vec::new()).unwrap();
    keep(&herd, "a", "01", 0);
    keep(&herd, "b", "03", 2);
    let entry = Entry { session: "01".into(), verdict: Verdict::Committed(vec!["a".into()]) };
    herd.record(&mut herd.state(), entry).unwrap(); // and here the host goes down
    std::mem::forget(herd.maps());
    drop(herd);
    let herd = Herd::open(dir.path(), Vec::new()).unwrap();
    assert_eq!(names(dir.path()), ["a.map", "journal", "lock", "pool"]);
    assert_eq!(herd.pool.metadata().unwrap().len(), 8192);
}

#[test]
fn a_damaged_map_stops_everything_and_loses_nothing() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let herd = Herd::open(dir.path(), Vec::new()).unwrap();
    keep(&herd, "a", "01", 0);
    herd.publish("01", &["a"]).unwrap();
    drop(herd);
    let map = dir.path().join("a.map");
    let mut bytes = fs::read(&map).unwrap();
    bytes[80] ^= 1;
    fs::write(&map, bytes).unwrap();
    assert!(matches!(Herd::open(dir.path(), Vec::new()), Err(StoreError::Damaged { .. })));
    assert_eq!(fs::metadata(dir.path().join(POOL)).unwrap().len(), 8192);
}

/// As a VMM's stream is kept: its state beside its memory.
fn keep_with_state(herd: &Herd, name: &str, session: &str, first: u64, state: &[u8]) {
    herd.attach(session, name, state).unwrap();
    keep(herd, name, session, first);
}

fn commit_alone(herd: &Herd, name: &str, session: &str) {
    let verdict = Verdict::Committed(vec![name.into()]);
    let entry = Entry { session: session.into(), verdict };
    herd.record(&mut herd.state(), entry).unwrap();
}

#[test]
fn a_state_is_there_with_its_vm_or_not_at_all() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let herd = Herd::open(dir.path(), Vec::new()).unwrap();
    assert!(herd.takes_state());
    keep_with_state(&herd, "a", "01", 0, b"of a");
    keep_with_state(&herd, "b", "02", 2, b"of b");
    keep_with_state(&herd, "c", "03", 4, b"of c");
    keep_with_state(&herd, "d.map", "04", 6, b"of d.map");
    assert_eq!(names(dir.path()).iter().filter(|name| !name.starts_with('.')).count(), 3);
    herd.publish("01", &["a"]).unwrap();
    herd.forget("02", &["b"]);
    commit_alone(&herd, "d.map", "04"); // and here the host goes down
    assert_eq!(fs::read(dir.path().join("a.qemu")).unwrap(), b"of a");
    drop(herd);
    drop(Herd::open(dir.path(), Vec::new()).unwrap());
    let all = ["a.map", "a.qemu", "d.map.map", "d.map.qemu", "journal", "lock", "pool"];
    assert_eq!(names(dir.path()), all);
    assert_eq!(fs::read(dir.path().join("d.map.qemu")).unwrap(), b"of d.map");
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(dir.path().join("a.qemu")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn naming_goes_on_from_every_step() {
    // what has its name when it was interrupted: nothing, the state, both
    for named in 0..3 {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let herd = Herd::open(dir.path(), Vec::new()).unwrap();
        keep_with_state(&herd, "a", "01", 0, b"of a");
        commit_alone(&herd, "a", "01");
        if named > 0 {
            name_state(&herd.dir, "a", "01").unwrap();
        }
        if named > 1 {
            name_map(&herd.dir, "a", "01").unwrap();
        }
        // it is there already for who would bring another of this name
        let kind = |e: StoreError| match e {
            StoreError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::AlreadyExists,
        };
        assert_eq!(herd.expect("a", &[]).map_err(kind), Err(io::ErrorKind::AlreadyExists));
        if named % 2 == 0 {
            herd.publish("01", &["a"]).unwrap(); // this process goes on with it
        }
        drop(herd);
        drop(Herd::open(dir.path(), Vec::new()).unwrap());
        assert_eq!(names(dir.path()), ["a.map", "a.qemu", "journal", "lock", "pool"]);
        assert_eq!(fs::read(dir.path().join("a.qemu")).unwrap(), b"of a");
    }
}

#[test]
fn a_state_leaves_with_its_vm() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let herd = Herd::open(dir.path(), Vec::new()).unwrap();
    keep_with_state(&herd, "a", "01", 0, b"of a");
    keep_with_state(&herd, "b", "02", 2, b"of b");
    herd.publish("01", &["a"]).unwrap();
    herd.publish("02", &["b"]).unwrap();
    fs::remove_file(dir.path().join("a.map")).unwrap();
    // another of this name comes while the herd is open, from no VMM: it has no state
    keep(&herd, "a", "03", 4);
    herd.publish("03", &["a"]).unwrap();
    assert_eq!(names(dir.path()), ["a.map", "b.map", "b.qemu", "journal", "lock", "pool"]);
    fs::remove_file(dir.path().join("b.map")).unwrap();
    drop(herd);
    drop(Herd::open(dir.path(), Vec::new()).unwrap());
    assert_eq!(names(dir.path()), ["a.map", "journal", "lock", "pool"]);
}
