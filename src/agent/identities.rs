//! The identities of remote endpoints, kept in the run directory across a restart of the agent.
//!
//! After a restart the policy table must allow what it allowed before, although BGP has not told anything yet. What
//! was known goes into a file a moment after it changes, with the neighbours that told it and with how long ago the session
//! was lost of what is kept only. A new process starts from it and forgets what has not been confirmed once those
//! neighbours have told all they know. Times are those of the clock that counts from the boot, so setting the clock
//! shortens and lengthens nothing; the file of another boot counts for nothing.

use std::{fs, io, net::IpAddr, path::Path, sync::Arc, time::Duration};

use super::files::replace;
use crate::model::{Family, Identity, LabelHash, Prefix};

/// The file's name in the run directory.
pub(super) const FILE: &str = "identities";
/// The first bytes of the file; another version of the format has others.
const MAGIC: &[u8; 8] = b"s32ids3\n";

/// What is known of remote endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Addresses, who is there, and how long ago the session was lost that told it, if it was.
    pub(super) entries: Vec<(Prefix, Arc<Identity>, Option<Duration>)>,
    /// The neighbours that told, each with a family.
    pub(super) neighbours: Vec<(String, Family)>,
}

/// A time of this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    boot: String,
    uptime: Duration,
}

impl Clock {
    /// Reads the kernel's.
    pub(super) fn read() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let uptime = fs::read_to_string("/proc/uptime")?;
        let seconds = uptime.split('.').next().and_then(|text| text.parse().ok());
        let seconds = seconds.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime"))?;
        Ok(Self { boot, uptime: Duration::from_secs(seconds) })
    }
}

/// Writes the file anew.
pub(super) fn save(path: &Path, known: &Known) -> io::Result<()> {
    replace(path, &encode(known, &Clock::read()?))
}

/// Reads the file; one that is not there is empty, a damaged one is an error.
pub(super) fn load(path: &Path) -> io::Result<Known> {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes, &Clock::read()?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is damaged")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Known::default()),
        Err(error) => Err(error),
    }
}

fn encode(known: &Known, now: &Clock) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + known.entries.len() * 72);
    out.extend_from_slice(MAGIC);
    put(&mut out, &now.boot);
    out.extend_from_slice(&(known.neighbours.len() as u32).to_le_bytes());
    for (name, family) in &known.neighbours {
        out.push(if *family == Family::Ipv4 { 4 } else { 6 });
        put(&mut out, name);
    }
    for (prefix, identity, lost) in &known.entries {
        // When it was lost, one second later; 0 for what is told.
        let at = lost.map_or(0, |age| now.uptime.saturating_sub(age).as_secs() + 1);
        out.extend_from_slice(&at.to_le_bytes());
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
            put(&mut out, text);
        }
    }
    out
}

fn decode(bytes: &[u8], now: &Clock) -> Option<Known> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut known = Known::default();
    let boot = text(&mut rest)?;
    for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
        let family = match take(&mut rest)? {
            [4] => Family::Ipv4,
            [6] => Family::Ipv6,
            _ => return None,
        };
        known.neighbours.push((text(&mut rest)?.to_owned(), family));
    }
    while !rest.is_empty() {
        let at = u64::from_le_bytes(take(&mut rest)?).checked_sub(1).map(Duration::from_secs);
        let lost = at.map(|at| now.uptime.saturating_sub(at));
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
        known.entries.push((Prefix::new(addr, len).ok()?, Arc::new(hashes?.with_full(full)), lost));
    }
    Some(if boot == now.boot { known } else { Known::default() })
}

/// Appends a text. All of them are shorter than 64 KiB.
fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
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
        assert_eq!(load(&path).unwrap(), Known::default());
        let identity =
            |n: u64| Arc::new([LabelHash(n), LabelHash(n << 32)].into_iter().collect::<Identity>());
        let labels = crate::model::Labels::try_from([("role", "web"), ("app", "")]).unwrap();
        let known = Known {
            entries: vec![
                ("10.32.1.1/32".parse().unwrap(), identity(7), None),
                ("fd00::1/128".parse().unwrap(), identity(9), None),
                ("10.32.1.2/32".parse().unwrap(), Arc::default(), None),
                ("10.32.1.3/32".parse().unwrap(), Arc::new(Identity::in_full(&labels)), None),
            ],
            neighbours: vec![("192.0.2.1".into(), Family::Ipv4), ("fe80::1%eth0".into(), Family::Ipv6)],
        };
        save(&path, &known).unwrap();
        assert_eq!(load(&path).unwrap(), known);
        let bytes = encode(&known, &Clock::read().unwrap());
        for end in 0..bytes.len() {
            // Between two entries it is a shorter file; anywhere else it is damaged.
            let decoded = decode(&bytes[..end], &Clock::read().unwrap());
            assert!(decoded.is_none_or(|k| k.entries.len() < known.entries.len()));
        }
        fs::write(&path, b"nonsense").unwrap();
        assert!(load(&path).is_err());
    }

    #[test]
    fn time_goes_on_between_two_processes_and_not_across_a_boot() {
        let clock = |boot: &str, seconds| Clock { boot: boot.into(), uptime: Duration::from_secs(seconds) };
        let known = |age| Known {
            entries: vec![("10.32.1.1/32".parse().unwrap(), Arc::default(), Some(Duration::from_secs(age)))],
            neighbours: vec![("192.0.2.1".into(), Family::Ipv4)],
        };
        for age in [0, 40, 100] {
            let bytes = encode(&known(age), &clock("a", 100));
            assert_eq!(decode(&bytes, &clock("a", 130)).unwrap(), known(age + 30));
            assert_eq!(decode(&bytes, &clock("b", 130)).unwrap(), Known::default());
        }
    }
}
