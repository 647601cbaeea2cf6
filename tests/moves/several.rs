//! Several senders at once into one herd: references that arrive before their pages, late, or never.

use super::*;

/// Processes that are one by fork, and their targets.
fn family(children: usize, pages: u64) -> (Holder, Vec<(i32, String)>) {
    let holder = Holder::new(&[&format!("fork={children}"), "dirty=20", &format!("anon:{pages}")]);
    let mut pids = vec![holder.pid];
    pids.extend(&holder.children);
    let names = ["a", "b", "c"];
    let targets =
        pids.iter().zip(names).map(|(&pid, name)| (pid, holder.target_of(name, pid, 0))).collect();
    (holder, targets)
}

/// A sender of one VM, which refers to others.
fn sender(vm: &str, refer: &[&str], to: &str, more: &[&str]) -> Command {
    let mut args = vec!["--vm", vm, "--to", to, "--json"];
    refer.iter().for_each(|other| args.extend(["--refer", other]));
    args.extend(more);
    mig_send(&args)
}

fn slots(said: &Value) -> u64 {
    let streams = said["streams"].as_array().unwrap().iter();
    streams.map(|stream| n(&stream["distinct_pages"])).sum()
}

fn right(folder: &Folder, holder: &Holder, targets: &[(i32, String)]) {
    for (pid, target) in targets {
        let name = target.split_once('=').unwrap().0;
        assert!(in_herd(&folder.path("h"), name) == region_of(holder, *pid, 0), "{name}");
    }
}

/// What is shared must come once, whoever comes first.
#[test]
fn two_and_three_senders_in_any_order_fill_one_herd() {
    let pages = 800;
    let (holder, targets) = family(2, pages);
    let [a, b, c] = [0, 1, 2].map(|i| targets[i].1.as_str());
    let orders: [&[usize]; 8] =
        [&[0, 1], &[1, 0], &[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]];
    for order in orders {
        let folder = Folder::new();
        let streams = order.len().to_string();
        let args = ["--into", &folder.at("h"), "--streams", &streams, "--wait", "30"];
        let receiver = listening(&folder.path("s"), &args);
        let to = format!("unix:{}", folder.at("s"));
        let mut running = Vec::new();
        for &which in order {
            let command = match which {
                0 => sender(a, &[], &to, &[]),
                1 => sender(b, &[a], &to, &[]),
                _ => sender(c, &[a, b], &to, &[]),
            };
            running.push(Run::new(command));
            // who refers is there first and waits, or comes when all is there
            std::thread::sleep(Duration::from_millis(60));
        }
        let bills: Vec<Value> = running.into_iter().map(|run| parsed(&run.well().stdout)).collect();
        let received = parsed(&receiver.well().stdout);
        right(&folder, &holder, &targets[..order.len()]);
        // several held them, and the last has let them go
        for (pid, _) in &targets {
            wait_for("the sources to run", LONG, || !is_stopped(*pid));
        }
        let copies = order.len() as u64 - 1;
        assert_eq!(slots(&received), pages + copies * 20, "{order:?}: {received}");
        for (bill, &which) in bills.iter().zip(order) {
            let shared = bill["filters"].as_array().unwrap().iter();
            let shared = shared.into_iter().find(|f| f["filter"] == "shared").unwrap();
            let wanted = if which == 0 { 0 } else { pages - 20 };
            assert_eq!(n(&shared["pages"]), wanted, "{bill}");
        }
    }
}

#[test]
fn a_sender_that_is_delayed_is_waited_for() {
    let (holder, targets) = family(1, 300);
    let folder = Folder::new();
    let args = ["--into", &folder.at("h"), "--streams", "2"];
    let receiver = listening(&folder.path("s"), &args);
    let to = format!("unix:{}", folder.at("s"));
    let first = Run::new(sender(&targets[1].1, &[&targets[0].1], &to, &[]));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!has(&folder.path("h"), "b"), "b waits");
    let slow = ["--rate", "2M", "--filters", "shared"];
    Run::new(sender(&targets[0].1, &[], &to, &slow)).well();
    first.well();
    receiver.well();
    right(&folder, &holder, &targets);
}

#[test]
fn who_waits_in_vain_is_told_for_what() {
    let (_holder, targets) = family(1, 300);
    let folder = Folder::new();
    let args = ["--into", &folder.at("h"), "--streams", "2", "--wait", "1"];
    let mut receiver = listening(&folder.path("s"), &args);
    let to = format!("unix:{}", folder.at("s"));
    let begin = Instant::now();
    let sent = Run::new(sender(&targets[1].1, &[&targets[0].1], &to, &[])).end();
    assert!((1..10).contains(&begin.elapsed().as_secs()));
    let words = said(&sent);
    assert_eq!(code(&sent), 1, "{words}");
    assert!(words.contains("page 20 of VM a did not arrive within 1 s"), "{words}");
    assert!(words.contains("page 20 of VM b refers to it"), "{words}");
    assert!(!receiver.has_ended(), "it takes another stream");
    let image = Dice(1).memory(10);
    fs::write(folder.path("i"), image).unwrap();
    Run::new(mig_send(&["--vm", &format!("x=image:{}", folder.at("i")), "--to", &to])).well();
    let received = receiver.end();
    assert_eq!(code(&received), 69, "{}", said(&received));
    assert!(said(&received).contains("page 20 of VM a did not arrive"));
    assert_eq!(folder.names("h"), ["journal", "lock", "pool", "x.map"]);
}

#[test]
fn a_page_that_no_stream_is_left_to_bring_is_named_at_once() {
    let (_holder, targets) = family(1, 300);
    let folder = Folder::new();
    let begin = Instant::now();
    let vm = targets[1].1.as_str();
    let (sent, received) =
        piped(&["--vm", vm, "--refer", &targets[0].1], &["--into", &folder.at("h")]);
    assert!(sent.status.success(), "on a pipe nobody tells it: {}", said(&sent));
    assert_eq!(code(&received), 65);
    let words = said(&received);
    assert!(words.contains("page 20 of VM a never arrived, and page 20 of VM b refers"), "{words}");
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(folder.names("h"), ["journal", "lock", "pool"]);
}

/// The stream that others refer to dies half-way; a third has nothing to do with it.
#[test]
fn a_sender_that_dies_takes_only_those_with_it_that_refer_to_it() {
    let (holder, targets) = family(2, 1500);
    let other = Holder::new(&["anon:200"]);
    // before, after and while the others refer to what it brings
    for (delay, late) in [(150, false), (500, true), (900, false), (20, true)] {
        let folder = Folder::new();
        let args = ["--into", &folder.at("h"), "--streams", "3", "--wait", "20"];
        let receiver = listening(&folder.path("s"), &args);
        let to = format!("unix:{}", folder.at("s"));
        let slow = ["--rate", "4M", "--filters", "shared"];
        let refers = || Run::new(sender(&targets[1].1, &[&targets[0].1], &to, &["--rate", "1M"]));
        let early = (!late).then(refers);
        let mut dying = Run::new(sender(&targets[0].1, &[], &to, &slow));
        std::thread::sleep(Duration::from_millis(delay));
        let b = early.unwrap_or_else(refers);
        std::thread::sleep(Duration::from_millis(150));
        let x = Run::new(sender(&other.target("x", 0), &[], &to, &[]));
        dying.kill();
        x.well();
        let refused = b.end();
        let received = receiver.end();
        let (first, second) = (said(&refused), said(&received));
        assert!(!has(&folder.path("h"), "a") && !has(&folder.path("h"), "b"), "{first}{second}");
        assert_eq!(code(&refused), 65, "{first}");
        assert!(first.contains("of VM a never arrived, and page"), "{first}");
        assert!(second.contains("of VM b refers to it"), "{second}");
        assert!([65, 69].contains(&code(&received)), "{second}");
        assert!(in_herd(&folder.path("h"), "x") == region_of(&other, other.pid, 0));
        assert_eq!(folder.names("h"), ["journal", "lock", "pool", "x.map"]);
        for (pid, _) in &targets {
            wait_for("the sources to run", LONG, || !is_stopped(*pid));
        }
        drop(receiver_is_free(&folder));
    }
    drop(holder);
}

/// The herd can be opened for writing again.
fn receiver_is_free(folder: &Folder) -> Run {
    fs::remove_file(folder.path("s")).unwrap_or_default();
    listening(&folder.path("s"), &["--into", &folder.at("h")])
}

#[test]
fn who_refer_to_one_another_wait_no_longer_than_they_may() {
    let (_holder, targets) = family(1, 200);
    let folder = Folder::new();
    let args = ["--into", &folder.at("h"), "--streams", "2", "--wait", "1"];
    let receiver = listening(&folder.path("s"), &args);
    let to = format!("unix:{}", folder.at("s"));
    let (a, b) = (targets[0].1.as_str(), targets[1].1.as_str());
    let both = [Run::new(sender(a, &[b], &to, &[])), Run::new(sender(b, &[a], &to, &[]))];
    for sent in both.map(Run::end) {
        assert!(!sent.status.success(), "{}", said(&sent));
    }
    assert!(!receiver.end().status.success());
    assert_eq!(folder.names("h"), ["journal", "lock", "pool"]);
}

#[test]
fn one_receiver_takes_streams_by_different_transports() {
    let (holder, targets) = family(2, 400);
    // all by their own; or all by one, while nobody comes by the others
    for by in [["s", "t", "f"], ["s", "s", "f"], ["t", "t", "f"]] {
        let folder = Folder::new();
        let file = format!("file:{}", folder.at("x"));
        Run::new(sender(&targets[2].1, &[], &file, &["--filters", "unused"])).well();
        let unix = ["s", "t"].map(|name| format!("unix:{}", folder.at(name)));
        let args =
            ["--from", &unix[1], "--from", &file, "--into", &folder.at("h"), "--streams", "3"];
        let receiver = listening(&folder.path("s"), &args);
        wait_for("the second socket", LONG, || folder.path("t").exists());
        let to = |at: &str| format!("unix:{}", folder.at(at));
        Run::new(sender(&targets[0].1, &[], &to(by[0]), &[])).well();
        Run::new(sender(&targets[1].1, &[&targets[0].1], &to(by[1]), &[])).well();
        let received = receiver.well();
        right(&folder, &holder, &targets);
        assert_eq!(parsed(&received.stdout)["streams"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn images_of_several_streams_share_too() {
    let (holder, targets) = family(1, 300);
    let folder = Folder::new();
    let images = ["a", "b"].map(|name| format!("{name}={}", folder.at(name)));
    let args = ["--image", &images[0], "--image", &images[1], "--streams", "2"];
    let receiver = listening(&folder.path("s"), &args);
    let to = format!("unix:{}", folder.at("s"));
    let b = Run::new(sender(&targets[1].1, &[&targets[0].1], &to, &[]));
    std::thread::sleep(Duration::from_millis(100));
    Run::new(sender(&targets[0].1, &[], &to, &[])).well();
    b.well();
    assert_eq!(slots(&parsed(&receiver.well().stdout)), 320);
    for (pid, name) in [(holder.pid, "a"), (holder.children[0], "b")] {
        assert!(fs::read(folder.path(name)).unwrap() == region_of(&holder, pid, 0), "{name}");
    }
}

/// A stream numbers the templates that it uses; another may number them otherwise.
#[test]
fn streams_name_templates_each_by_its_own_numbers() {
    let folder = Folder::new();
    let mut dice = Dice(31);
    let memories = [dice.memory(200), dice.memory(150)];
    for (number, memory) in memories.iter().enumerate() {
        fs::write(folder.path(&format!("t{number}")), memory).unwrap();
        fs::write(folder.path(&format!("i{number}")), memory).unwrap();
    }
    let (t0, t1) = (folder.at("t0"), folder.at("t1"));
    let into = ["--into", &folder.at("h"), "--streams", "2", "--template", &t0, "--template", &t1];
    let receiver = listening(&folder.path("s"), &into);
    let to = format!("unix:{}", folder.at("s"));
    let image = |n: usize| format!("vm{n}=image:{}", folder.at(&format!("i{n}")));
    let chain = ["--filters", "zero,template"];
    Run::new(sender(&image(1), &[], &to, &[&chain[..], &["--template", &t1]].concat())).well();
    let both = ["--template", &t1, "--template", &t0];
    Run::new(sender(&image(0), &[], &to, &[&chain[..], &both].concat())).well();
    let received = receiver.well();
    assert_eq!(slots(&parsed(&received.stdout)), 0, "{}", words(&received));
    for (number, memory) in memories.iter().enumerate() {
        assert!(in_herd(&folder.path("h"), &format!("vm{number}")) == *memory);
    }
}

/// A herd that is filled, thinned out and filled again keeps what it has, and takes no more room.
#[test]
fn a_herd_is_filled_again_and_again() {
    let folder = Folder::new();
    let herd = folder.at("h");
    let mut dice = Dice(41);
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for turn in 0..12 {
        let name = format!("vm{turn}");
        let pages = 50 + dice.below(200);
        let memory = dice.memory(pages);
        fs::write(folder.path("i"), &memory).unwrap();
        let vm = format!("{name}=image:{}", folder.at("i"));
        pass(&["--vm", &vm, "--filters", "zero,same"], &["--into", &herd, "--verify"]);
        kept.push((name, memory));
        if turn % 3 == 2 {
            let (gone, _) = kept.remove(dice.below(kept.len()));
            fs::remove_file(folder.path("h").join(format!("{gone}.map"))).unwrap();
        }
        for (name, memory) in &kept {
            assert!(in_herd(&folder.path("h"), name) == *memory, "{name} in turn {turn}");
        }
    }
    let all: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
    drop(pageherd::store::herd::Herd::open(&folder.path("h"), Vec::new()).unwrap());
    assert!(crate::footprint::distinct(&folder.path("h"), &all) > 0);
}
