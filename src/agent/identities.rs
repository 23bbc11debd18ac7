//! The identities of remote endpoints, kept in the run directory across a restart of the agent.
//!
//! After a restart the policy table must allow what it allowed before, although BGP has not told anything yet. What
//! was known goes into a file a moment after it changes; a new process starts from it and forgets what has not been
//! confirmed once every neighbour has sent its routes.

use std::{fs, io, net::IpAddr, path::Path, sync::Arc};

use super::files::replace;
use crate::model::{Identity, LabelHash, Prefix};

/// The file's name in the run directory.
pub(super) const FILE: &str = "identities";
/// The first bytes of the file; another version of the format has others.
const MAGIC: &[u8; 8] = b"s32ids2\n";

/// What is known of remote endpoints.
pub(super) type Known = Vec<(Prefix, Arc<Identity>)>;

/// Writes the file anew.
pub(super) fn save(path: &Path, known: &Known) -> io::Result<()> {
    replace(path, &encode(known))
}

/// Reads the file; one that is not there is empty, a damaged one is an error.
pub(super) fn load(path: &Path) -> io::Result<Known> {
    match fs::read(path) {
        Ok(bytes) => {
            decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is damaged"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Known::new()),
        Err(error) => Err(error),
    }
}

fn encode(known: &Known) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + known.len() * 64);
    out.extend_from_slice(MAGIC);
    for (prefix, identity) in known {
        out.push(prefix.len());
        match prefix.addr() {
            IpAddr::V4(addr) => {
                out.push(4);
                out.extend_from_slice(&addr.octets());
            }
            IpAddr::V6(addr) => {
                out.push(6);
                out.extend_from_slice(&addr.octets());
            }
        }
        out.extend_from_slice(&(identity.hashes().len() as u32).to_le_bytes());
        identity.hashes().iter().for_each(|hash| out.extend_from_slice(&hash.0.to_le_bytes()));
        out.extend_from_slice(&(identity.full().count() as u32).to_le_bytes());
        for text in identity.full().flat_map(|(key, value)| [key, value]) {
            // Keys and values are shorter than 64 KiB.
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

fn decode(bytes: &[u8]) -> Option<Known> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut known = Known::new();
    while !rest.is_empty() {
        let [len, family] = take(&mut rest)?;
        let addr: IpAddr = match family {
            4 => take::<4>(&mut rest)?.into(),
            6 => take::<16>(&mut rest)?.into(),
            _ => return None,
        };
        let count = u32::from_le_bytes(take(&mut rest)?);
        let hashes: Option<Identity> =
            (0..count).map(|_| take(&mut rest).map(|bytes| LabelHash(u64::from_le_bytes(bytes)))).collect();
        let mut full = Vec::new();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            full.push((text(&mut rest)?, text(&mut rest)?));
        }
        known.push((Prefix::new(addr, len).ok()?, Arc::new(hashes?.with_full(full))));
    }
    Some(known)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_le_bytes(take(rest)?);
    let (head, tail) = rest.split_at_checked(length.into())?;
    *rest = tail;
    str::from_utf8(head).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_never_panics_when_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(load(&path).unwrap().is_empty());
        let identity =
            |n: u64| Arc::new([LabelHash(n), LabelHash(n << 32)].into_iter().collect::<Identity>());
        let labels = crate::model::Labels::try_from([("role", "web"), ("app", "")]).unwrap();
        let known: Known = vec![
            ("10.32.1.1/32".parse().unwrap(), identity(7)),
            ("fd00::1/128".parse().unwrap(), identity(9)),
            ("10.32.1.2/32".parse().unwrap(), Arc::default()),
            ("10.32.1.3/32".parse().unwrap(), Arc::new(Identity::in_full(&labels))),
        ];
        save(&path, &known).unwrap();
        assert_eq!(load(&path).unwrap(), known);
        let bytes = encode(&known);
        for end in 0..bytes.len() {
            // Between two entries it is a shorter file; anywhere else it is damaged.
            assert!(decode(&bytes[..end]).is_none_or(|k| k.len() < known.len()));
        }
        fs::write(&path, b"nonsense").unwrap();
        assert!(load(&path).is_err());
    }
}
