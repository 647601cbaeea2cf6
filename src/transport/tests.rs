//! What holds for every medium: whole writes, one channel of what has one, streams through both ends.

use super::*;
use proptest::prelude::*;
use std::process::{Command, Stdio};
use std::thread;

/// Takes at most so many bytes at a time, and is interrupted each other time.
struct Narrow(usize, bool, Vec<u8>);

impl Write for Narrow {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let taken = from.len().min(self.0);
        self.2.extend_from_slice(&from[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drain for Narrow {}

proptest! {
    #[test]
    fn slices_arrive_in_order_through_any_narrow_place(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        narrow in 1usize..50,
    ) {
        let mut to = Narrow(narrow, false, Vec::new());
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        write_all_vectored(&mut to, &mut slices).unwrap();
        prop_assert_eq!(to.2, parts.concat());
    }
}

#[test]
fn a_place_that_takes_nothing_is_an_error() {
    let mut to = Narrow(0, false, Vec::new());
    let error = write_all_vectored(&mut to, &mut [IoSlice::new(b"x")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

/// Bytes that are not the same twice.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(bytes)
        .collect()
}

#[test]
fn a_stream_passes_every_medium_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let unix = Address::Unix(folder.path().join("s"));
    let exec = Address::Exec("cat".into());
    let stall = Options { stall_timeout: Some(Duration::from_secs(30)), ..Options::default() };
    let fast = Options { rate: Some(1 << 40), ..Options::default() };
    let sent = pattern(3_000_001);
    for options in [Options::default(), stall, fast] {
        for at in [&unix, &exec, &"tcp:127.0.0.1:0".parse().unwrap()] {
            let listener = (*at != exec).then(|| listen(at, &options).unwrap());
            let at = listener.as_ref().map_or(at.clone(), |l| l.local().clone());
            let mut channel = connect(&at, &options).unwrap();
            let mut other = listener.map(|mut l| l.accept().unwrap());
            let output = channel.output.take();
            let copy = sent.clone();
            // as the wire does: a few slices at a time, some short, some empty
            let writer = thread::spawn(move || {
                let mut output = output.unwrap();
                for piece in copy.chunks(1 << 20) {
                    let (a, b) = piece.split_at(piece.len() / 3);
                    let mut slices = [&a[..1], &[], &a[1..], b].map(IoSlice::new);
                    write_all_vectored(&mut *output, &mut slices).unwrap();
                }
                output
            });
            let mut got = vec![0; sent.len()];
            let from = other.as_mut().unwrap_or(&mut channel);
            from.input.as_mut().unwrap().read_exact(&mut got).unwrap();
            assert!(got == sent, "{at}");
            drop(writer.join().unwrap());
            let finish = other.map(|other| thread::spawn(|| other.finish()));
            channel.finish().unwrap();
            finish.map(|f| f.join().unwrap()).transpose().unwrap();
        }
    }
}

#[test]
fn what_has_one_channel_gives_one() {
    let mut listener = listen(&Address::Exec("echo hi".into()), &Options::default()).unwrap();
    listener.accept().unwrap().finish().unwrap();
    let error = listener.accept().unwrap_err();
    assert!(matches!(error, TransportError::Taken { .. }), "{error}");
}

/// The other half of the two tests below: it is run by them as a process of its own.
#[test]
fn a_process_with_standard_streams() {
    let Ok(role) = std::env::var("PAGEHERD_TEST_ROLE") else { return }; // we are no such process
    let stdio_both = role == "both";
    let options = Options { stdio_both, ..Options::default() };
    let mut channel = match role.as_str() {
        "sender" => connect(&Address::Stdio, &options).unwrap(),
        _ => listen(&Address::Stdio, &options).unwrap().accept().unwrap(),
    };
    assert_eq!(channel.two_way, role != "sender");
    println!("stray");
    let mut heard = String::new();
    if role == "sender" {
        heard = "sent".into();
    } else {
        channel.input.as_mut().unwrap().read_to_string(&mut heard).unwrap();
    }
    channel.output.as_mut().unwrap().write_all(heard.as_bytes()).unwrap();
    channel.finish().unwrap();
    if role == "sender" {
        // alive until told: the end of the stream is seen before
        let _ = io::stdin().read(&mut [0]);
    }
}

fn role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "transport::tests::a_process_with_standard_streams"]);
    command.arg("--nocapture").env("PAGEHERD_TEST_ROLE", role);
    command
}

#[test]
fn a_sender_on_stdout_ends_its_stream_and_lets_nothing_else_into_it() {
    let mut child = role("sender").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "the end came before the process ended");
    assert!(text.ends_with("sent") && !text.contains("stray"), "{text}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_receiver_answers_on_a_socket_and_on_both_streams_if_told() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut child =
        role("receiver").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().unwrap();
    ours.write_all(b"by socket").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "by socket");
    assert!(child.wait().unwrap().success());

    let command = role("both");
    let quoted: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let line = format!("PAGEHERD_TEST_ROLE=both {}", quoted.join(" "));
    let mut channel = connect(&Address::Exec(line), &Options::default()).unwrap();
    channel.output.as_mut().unwrap().write_all(b"through exec").unwrap();
    channel.output = None;
    let mut text = String::new();
    channel.input.as_mut().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.ends_with("through exec") && !text.contains("stray"), "{text}");
    channel.finish().unwrap();
}
