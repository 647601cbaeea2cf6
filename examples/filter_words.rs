//! An external filter: pages in, runs of equal 8-byte words out. It shows the protocol, version 1,
//! and is used as `mig-send --filters exec:filter_words`. Nothing but the standard library.
//!
//! A packed chunk is `length of the pages (4 bytes)`, then for each run `words (2 bytes), word (8
//! bytes)`, all with the lowest byte first.

use std::io::{self, BufRead, BufReader, Read, Write};

fn main() -> io::Result<()> {
    let mut input = BufReader::with_capacity(1 << 16, io::stdin().lock());
    let mut output = io::stdout().lock();
    let mut hello = String::new();
    input.read_line(&mut hello)?;
    let work = match hello.trim_end() {
        "pageherd-filter 1 pack" => pack,
        "pageherd-filter 1 unpack" => unpack,
        other => return Err(io::Error::other(format!("no such protocol: {other}"))),
    };
    output.write_all(b"pageherd-filter 1\n")?;
    output.flush()?;
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while !input.fill_buf()?.is_empty() {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        request.resize(u32::from_le_bytes(length) as usize, 0);
        input.read_exact(&mut request)?;
        answer.clear();
        work(&request, &mut answer)?;
        let length = u32::try_from(answer.len()).map_err(io::Error::other)?;
        output.write_all(&length.to_le_bytes())?;
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

fn pack(pages: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(pages.len()).map_err(io::Error::other)?;
    out.extend_from_slice(&length.to_le_bytes());
    let (words, _) = pages.as_chunks::<8>();
    for run in words.chunk_by(|a, b| a == b) {
        for run in run.chunks(usize::from(u16::MAX)) {
            let count = u16::try_from(run.len()).map_err(io::Error::other)?;
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&run[0]);
        }
    }
    if out.len() >= pages.len() {
        out.clear(); // not smaller: send them as they are
    }
    Ok(())
}

fn unpack(packed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let damaged = || io::Error::other("the chunk is damaged");
    let (length, runs) = packed.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (runs, rest) = runs.as_chunks::<10>();
    for [a, b, word @ ..] in runs {
        let count = usize::from(u16::from_le_bytes([*a, *b]));
        if out.len() + 8 * count > length {
            return Err(damaged());
        }
        (0..count).for_each(|_| out.extend_from_slice(word));
    }
    if out.len() == length && rest.is_empty() { Ok(()) } else { Err(damaged()) }
}
