//! `tls:HOST:PORT`: encrypted, and both ends prove by a certificate of one authority who they are.
//!
//! A stream that ends without the closing message of TLS was cut off, and is an error. The two
//! directions share the state of one session: a reader that waits for the peer does not hold it,
//! a writer that waits for the peer does. Half-duplex, as the protocol is, that locks nobody out.

use super::plain::Plain;
use super::tcp;
use super::{Channel, Drain, End, Options, Source, TransportError};
use crate::base::address::Address;
use crate::sys::fd::{Want, wait};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, IoState, RootCertStore, ServerConfig,
    ServerConnection,
};
use std::fs::File;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time for both ends to prove who they are: an idle peer holds a place for no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the end of a session waits for the peer's.
const LINGER: Duration = Duration::from_secs(1);

/// Encrypted bytes that are read at once; the library itself would ask for 4096.
const READ_BYTES: usize = 1 << 18;

/// Most bytes that are encrypted before they are written: sixteen records.
const WRITE_BYTES: usize = 1 << 18;

/// Largest file of certificates or keys.
const PEM_BYTES: u64 = 1 << 20;

/// The protocol that both ends name, so that no service of another kind with a certificate of the
/// same authority can be put in a peer's place.
const PROTOCOL: &[u8] = b"pageherd";

/// What `tls:` proves itself with. All files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// Our certificate, followed by those between it and the authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificates of the authorities that the other end's must come from.
    pub ca: PathBuf,
    /// The name that a receiver's certificate must have, where it is not the host of the address.
    pub name: Option<String>,
}

/// A receiver's side of every session.
#[derive(Clone, Debug)]
pub(super) struct Identity(Arc<ServerConfig>);

/// Prepares a receiver.
pub(super) fn server(address: &Address, options: &Options) -> Result<Identity, TransportError> {
    let files = files(address, options)?;
    let (chain, key) = proof(files)?;
    let failed = |e| mismatched(&files.cert, "and its key cannot be used", e);
    let roots = Arc::new(authorities(&files.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    let verifier =
        verifier.map_err(|e| unusable(&files.ca, format!("cannot be used as authorities: {e}")))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(failed)?;
    // each session is verified in full; and no ticket comes that looks like an answer
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Identity(Arc::new(config)))
}

/// Connects, and verifies the receiver. Whether it accepts our certificate shows when its first
/// answer is read: TLS 1.3 tells the client no earlier.
pub(super) fn connect(
    address: &Address,
    at: (&str, u16),
    options: &Options,
) -> Result<Channel, TransportError> {
    let what = address.to_string();
    let files = files(address, options)?;
    let (chain, key) = proof(files)?;
    let failed = |e| mismatched(&files.cert, "and its key cannot be used", e);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(authorities(&files.ca)?)
        .with_client_auth_cert(chain, key)
        .map_err(failed)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let name = files.name.as_deref().unwrap_or(at.0).to_owned();
    let name = ServerName::try_from(name).map_err(|_| TransportError::Refused {
        what: what.clone(),
        why: "the name that its certificate must have is no host name: give one by --tls-name"
            .into(),
    })?;
    let session = ClientConnection::new(Arc::new(config), name).map_err(failed)?;
    open(tcp::dial(address, at, options, true)?, session.into(), HANDSHAKE)
}

/// Waits for the next connection, and verifies who it is.
pub(super) fn accept(
    listener: &TcpListener,
    identity: &Identity,
    options: &Options,
) -> Result<Channel, TransportError> {
    let plain = tcp::next(listener, "tls", options)?;
    let session = ServerConnection::new(identity.0.clone());
    let session = session.map_err(|e| failed(&plain.what, "a session cannot be begun", e))?;
    open(plain, session.into(), HANDSHAKE)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn failed(what: &str, why: &str, source: rustls::Error) -> TransportError {
    TransportError::Tls { what: what.into(), why: why.into(), source: Some(source) }
}

fn files<'a>(address: &Address, options: &'a Options) -> Result<&'a TlsFiles, TransportError> {
    options.tls.as_ref().ok_or_else(|| TransportError::Refused {
        what: address.to_string(),
        why: "both ends must prove who they are: name a certificate, its key and the authority by --tls-cert, --tls-key and --tls-ca".into(),
    })
}

/// The bytes of a PEM file, which may be read from a device: not without end.
fn pem(path: &Path) -> Result<(File, impl Read + use<>), TransportError> {
    let what = path.display().to_string();
    let file = File::open(path).map_err(|e| TransportError::of(&what, "open it", e))?;
    let bytes = file.try_clone().map_err(|e| TransportError::of(&what, "read it", e))?;
    Ok((file, bytes.take(PEM_BYTES)))
}

fn unusable(path: &Path, why: impl Into<String>) -> TransportError {
    TransportError::Unusable { what: path.display().to_string(), why: why.into(), source: None }
}

fn mismatched(path: &Path, why: &str, source: rustls::Error) -> TransportError {
    let (what, why) = (path.display().to_string(), why.into());
    TransportError::Unusable { what, why, source: Some(source) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(pem(path)?.1).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(path, "has no certificate in PEM form")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path, format!("is no PEM file of certificates: {error}"))),
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TransportError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|e| mismatched(path, "has a bad certificate", e))?;
    }
    Ok(store)
}

type Proof = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Our certificate and its key, which must be kept from other users.
fn proof(files: &TlsFiles) -> Result<Proof, TransportError> {
    let path = &files.key;
    let (file, bytes) = pem(path)?;
    let mode = file.metadata().map(|kind| kind.permissions().mode());
    let mode =
        mode.map_err(|e| TransportError::of(&path.display().to_string(), "look at it", e))?;
    if mode & 0o007 != 0 {
        let why = "every user of this host may use this key: chmod o= it, and make a new one if they may have";
        return Err(TransportError::Refused { what: path.display().to_string(), why: why.into() });
    }
    let key = PrivateKeyDer::from_pem_reader(bytes)
        .map_err(|e| unusable(path, format!("has no private key in PEM form: {e}")))?;
    Ok((certificates(&files.cert)?, key))
}

/// Shakes hands, and makes a channel of the session.
fn open(plain: Plain, session: Connection, limit: Duration) -> Result<Channel, TransportError> {
    let what = plain.what.clone();
    let mut session = Session {
        input: BufReader::with_capacity(READ_BYTES, plain.clone()),
        tls: session,
        plain: plain.clone(),
    };
    session.tls.set_buffer_limit(Some(WRITE_BYTES));
    if let Err(error) = session.shake_hands(Instant::now() + limit) {
        // the reason is on its way to the peer, and must not be overtaken
        let _ = plain.part(Duration::from_millis(200));
        return Err(error);
    }
    let half = Half { session: Arc::new(Mutex::new(session)), plain };
    Ok(Channel {
        input: Some(Box::new(half.clone())),
        output: Some(Box::new(half.clone())),
        two_way: true,
        is_file: false,
        strict: true,
        what: what.to_string(),
        end: Box::new(half),
    })
}

struct Session {
    tls: Connection,
    /// What came from the socket, in large pieces.
    input: BufReader<Plain>,
    plain: Plain,
}

impl Session {
    fn shake_hands(&mut self, end: Instant) -> Result<(), TransportError> {
        let what = self.plain.what.clone();
        let of = |e| TransportError::of(&what, "shake hands", e);
        loop {
            self.send().map_err(of)?;
            if !self.tls.is_handshaking() {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            let come = !self.input.buffer().is_empty()
                || wait(self.plain.file.as_fd(), Want::Read, Some(left)).map_err(of)?;
            if !come || left.is_zero() {
                let why = "the other end did not prove in time who it is: is it tls: too?".into();
                return Err(TransportError::Tls { what: what.to_string(), why, source: None });
            }
            if !self.take().map_err(of)? {
                return Err(of(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Writes everything that is encrypted.
    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.plain)?;
        }
        Ok(())
    }

    /// Reads and decrypts one piece; false at the end of the connection.
    fn take(&mut self) -> io::Result<bool> {
        let bytes = self.tls.read_tls(&mut self.input)?;
        self.process()?;
        Ok(bytes > 0)
    }

    /// Decrypts what was read. What failed once fails again.
    fn process(&mut self) -> io::Result<IoState> {
        self.tls.process_new_packets().map_err(|error| {
            let _ = self.send(); // says to the peer why
            failed(&self.plain.what, "the two ends do not trust each other", error).into_io()
        })
    }

    /// Decrypted bytes that are there; `WouldBlock` where there are none yet.
    fn decrypted(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.tls.reader().read(to).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => error,
            // the library says so where the connection ended without the closing message
            _ => TransportError::of(&self.plain.what, "read", error).into_io(),
        })
    }
}

/// One of the holders of a session: the reader, the writer, the end.
#[derive(Clone)]
struct Half {
    session: Arc<Mutex<Session>>,
    plain: Plain,
}

impl Half {
    fn session(&self) -> MutexGuard<'_, Session> {
        // a session is used in steps that leave it whole; one that is not fails to decrypt
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Half {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        loop {
            {
                let mut session = self.session();
                match session.decrypted(to) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                let here = !session.input.buffer().is_empty() || session.plain.ready();
                if here {
                    session.take()?;
                    session.send()?; // as the answer to a change of keys
                    continue;
                }
                session.process()?; // what `ready` found
            }
            // waits without the session, so that the other direction can go on
            self.plain.wait(Want::Read)?;
        }
    }
}

impl Write for Half {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session();
        session.send()?; // what an earlier call encrypted and could not write
        let taken = session.tls.writer().write_vectored(from)?;
        session.send()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.session().send()
    }
}

impl Source for Half {
    fn ready(&mut self) -> bool {
        let mut session = self.session();
        loop {
            // asks for no byte: tells whether there are any, or the end
            let state = session.tls.process_new_packets();
            if !state
                .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
            {
                return true;
            }
            let here = !session.input.buffer().is_empty() || session.plain.ready();
            if !here {
                return false;
            }
            // an error or the end shows again in the read
            match session.take() {
                Ok(true) => {}
                Ok(false) | Err(_) => return true,
            }
        }
    }
}

impl Drain for Half {}

impl End for Half {
    fn finish(self: Box<Self>, input: Option<Box<dyn Source>>) -> Result<(), TransportError> {
        drop(input);
        let mut session = self.session();
        session.tls.send_close_notify();
        let sent = session.send().map_err(|e| TransportError::of(&self.plain.what, "end it", e));
        let peer_done = session.process().is_ok_and(|state| state.peer_has_closed());
        drop(session);
        match sent.and_then(|()| self.plain.part(LINGER)) {
            // it has said its last word, and need not be there for ours
            Err(TransportError::PeerGone { .. }) if peer_done => Ok(()),
            ended => ended,
        }
    }
}

#[cfg(test)]
mod tests;
