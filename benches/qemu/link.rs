//! A link that counts what goes over it, and can be slow.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What all relays of a link have in common.
pub(crate) struct Ether {
    /// Bytes that went through, in both directions.
    pub(crate) sent: AtomicU64,
    /// Bytes a second; when the link is free again.
    pace: Option<(f64, Mutex<Instant>)>,
}

impl Ether {
    /// Waits until these bytes have gone over the link.
    fn takes(&self, bytes: usize) {
        /// A sleep that took too long is made up for, but not more than this.
        const SLACK: Duration = Duration::from_millis(2);
        let Some((rate, free)) = &self.pace else { return };
        let now = Instant::now();
        let until = {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*free).max(now.checked_sub(SLACK).unwrap_or(now));
            *free = begin + Duration::from_secs_f64(bytes as f64 / rate);
            *free
        };
        std::thread::sleep(until.saturating_duration_since(now));
    }
}

/// A link.
pub(crate) struct Wire(Arc<Ether>);

/// Where a relay connects to.
#[derive(Clone)]
pub(crate) enum To {
    Tcp(u16),
    Unix(PathBuf),
}

/// Takes connections, and hands on what comes.
pub(crate) struct Relay {
    pub(crate) ether: Arc<Ether>,
    pub(crate) port: u16,
    over: Arc<AtomicBool>,
}

impl Wire {
    /// With so many bytes a second, or as fast as it goes.
    pub(crate) fn new(rate: Option<f64>) -> Self {
        let pace = rate.map(|rate| (rate, Mutex::new(Instant::now())));
        Self(Arc::new(Ether { sent: AtomicU64::new(0), pace }))
    }

    /// A relay over this link.
    pub(crate) fn relay(&self, to: To) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let over = Arc::new(AtomicBool::new(false));
        let (ether, ends) = (self.0.clone(), over.clone());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let near = near.expect("a connection");
                near.set_nodelay(true).expect("it can be told");
                join(near, &to, &ether);
            }
        });
        Relay { ether: self.0.clone(), port, over }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn join(near: TcpStream, to: &To, ether: &Arc<Ether>) {
    let back = near.try_clone().expect("a copy");
    match to {
        To::Tcp(port) => {
            let far = TcpStream::connect(("127.0.0.1", *port)).expect("the far end listens");
            far.set_nodelay(true).expect("it can be told");
            hand_on(far.try_clone().expect("a copy"), back, ether.clone(), false);
            hand_on(near, far, ether.clone(), true);
        }
        To::Unix(path) => {
            let far = UnixStream::connect(path).expect("the far end listens");
            hand_on(far.try_clone().expect("a copy"), back, ether.clone(), false);
            hand_on(near, far, ether.clone(), true);
        }
    }
}

/// A stream whose reader can be told that no more comes.
trait End: Write + Send + 'static {
    fn end(&self);
}

impl End for TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl End for UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

fn hand_on(mut from: impl Read + Send + 'static, mut to: impl End, ether: Arc<Ether>, paced: bool) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if paced {
                ether.takes(read);
            }
            ether.sent.fetch_add(read as u64, Ordering::Relaxed);
            if read == 0 || to.write_all(&buffer[..read]).is_err() {
                return to.end();
            }
        }
    });
}
