//! From A to B to C, twenty times.

use super::*;

#[test]
fn twenty_hops_by_different_ways_leave_the_same_memory() {
    let folder = Folder::new();
    let image = Dice(20).memory(700);
    fs::write(folder.path("start"), &image).unwrap();
    fs::write(folder.path("template"), Dice(21).memory(300)).unwrap();
    let wanted = digest_of(&image);
    let template = folder.at("template");
    let chains = [
        "auto",
        "none",
        "zero,same",
        "unused,zero,shared,lz4",
        "zero,template,shared,zstd=5",
        "shared,same,xor,lz4,zstd",
        "unused,shared",
    ];
    let mut source = format!("a=image:{}", folder.at("start"));
    for hop in 0..20 {
        let chain = chains[hop % chains.len()];
        let next = folder.path(&format!("hop{hop}"));
        let to_image = hop % 5 == 3;
        let target = next.to_str().unwrap().to_owned();
        let (named, into) = (format!("a={target}"), ["--into", &target]);
        let image = ["--image", &named];
        let mut recv = if to_image { image.to_vec() } else { into.to_vec() };
        let mut send = vec!["--vm", &source, "--filters", chain, "--json"];
        let with_template = chain.contains("template");
        if with_template {
            send.extend(["--template", &template]);
            recv.extend(["--template", &template]);
        }
        if hop % 3 == 1 {
            recv.push("--verify");
            send.push("--verify");
        }
        let socket = folder.path(&format!("socket{hop}"));
        let to = match hop % 4 {
            0 => None,
            1 => Some(format!("unix:{}", socket.display())),
            2 => Some(format!("file:{},offset=12288", socket.display())),
            _ => Some(format!("file:{}", socket.display())),
        };
        let (sent, received) = match &to {
            None => {
                let (sent, received) = piped(&send, &[&recv[..], &["--json"]].concat());
                assert!(sent.status.success() && received.status.success(), "{}", words(&received));
                // where the stream is on standard output the bill is on the other
                (parsed(&sent.stderr), parsed(&received.stdout))
            }
            Some(to) if to.starts_with("unix") => {
                let receiver = listening(&socket, &recv);
                let sent = Run::new(mig_send(&[&send[..], &["--to", to]].concat())).well();
                (parsed(&sent.stdout), parsed(&receiver.well().stdout))
            }
            Some(to) => {
                let sent = Run::new(mig_send(&[&send[..], &["--to", to]].concat())).well();
                let from =
                    Run::new(mig_recv(&[&recv[..], &["--from", to, "--json"]].concat())).well();
                (parsed(&sent.stdout), parsed(&from.stdout))
            }
        };
        assert_eq!(digest_in(&sent, "a"), wanted, "hop {hop}, {chain}");
        assert_eq!(digest_in(&received, "a"), wanted, "hop {hop}, {chain}");
        source = match to_image {
            true => format!("a=image:{target}"),
            false => format!("a=herd:{target}/a"),
        };
    }
    assert!(in_herd(&folder.path("hop19"), "a") == image);
    // VMs that share in a herd share in the next
    let two = format!("b=image:{}", folder.at("start"));
    let args = ["--vm", &source, "--vm", &two, "--trust", "a,b", "--filters", "zero,same"];
    let first = pass(&args, &["--into", &folder.at("both")]);
    let all = format!("herd:{}", folder.at("both"));
    let second = pass(&["--vm", &all], &["--into", &folder.at("again")]);
    let slots = |said: &Value| said["streams"][0]["distinct_pages"].as_u64().unwrap();
    assert_eq!(slots(&first), slots(&second));
    for name in ["a", "b"] {
        assert!(in_herd(&folder.path("again"), name) == image);
    }
}
