//! Hexadecimal text, a message a line.

use std::io::{BufRead, BufReader, Read, Write};

use serde::Serialize;

use super::{Line, Output};
use crate::bgp::wire::{DecodeContext, Description, describe};

/// What some editors begin a file with: U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Serialize)]
struct HexOrigin {
    line: usize,
}

impl std::fmt::Display for HexOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.line)
    }
}

pub(super) fn decode<W: Write>(
    ctx: DecodeContext,
    mut input: BufReader<impl Read>,
    out: &mut Output<W>,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if input.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let text = if line == 1 { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes) } else { &bytes };
        let message = match hex_octets(text) {
            Ok(None) => continue,
            Ok(Some(octets)) => describe(&ctx, &octets),
            Err((reason, offset)) => Description::invalid(&reason, offset),
        };
        out.line(&Line { message, origin: HexOrigin { line } })?;
        // Whoever types or pipes lines one by one sees each answer at once.
        if input.buffer().is_empty() {
            out.flush()?;
        }
    }
    Ok(())
}

/// The octets of a line; `None` for a blank one and for a comment. The error's number is how many octets came before it.
fn hex_octets(line: &[u8]) -> Result<Option<Vec<u8>>, (String, usize)> {
    let text = line.split(|&b| b == b'#').next().unwrap_or_default();
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let mut octets = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    let between = |b: &u8| b.is_ascii_whitespace() || matches!(b, b':' | b'-' | b',');
    // Each group of digits may say that it is one.
    let plain = |word| <[u8]>::strip_prefix(word, b"0x").or(word.strip_prefix(b"0X")).unwrap_or(word);
    for &byte in text.split(between).flat_map(plain) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            let shown =
                if byte.is_ascii() { format!("{:?}", char::from(byte)) } else { format!("0x{byte:02x}") };
            return Err((format!("{shown} is no hexadecimal digit"), octets.len()));
        };
        match high.take() {
            None => high = Some(digit as u8),
            Some(high) => octets.push(high << 4 | digit as u8),
        }
    }
    match high {
        None if octets.is_empty() => Err(("there are no hexadecimal digits".to_owned(), 0)),
        None => Ok(Some(octets)),
        Some(_) => Err(("an odd number of hexadecimal digits".to_owned(), octets.len())),
    }
}
