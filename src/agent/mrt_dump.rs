//! `slash32 bgp dump-mrt`: the RIB as a table dump (RFC 6396 section 4.3), piece by piece, into a file.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use serde_json::{Value, json};

use crate::{
    api::Failure,
    bgp::{
        PeerId,
        config::SpeakerConfig,
        mrt::{PeerIndexEntry, write},
        rib::{DumpedRoute, Rib},
        speaker::{PeerStatus, SpeakerHandle},
    },
    model::{Family, Prefix},
};

/// Prefixes asked for at once: a few milliseconds of the RIB's time.
const PIECE: usize = 2000;

/// Writes the file; it is there as a whole or not at all.
pub(super) async fn dump(
    speaker: &SpeakerHandle,
    config: &SpeakerConfig,
    hostname: &str,
    path: &Path,
) -> Result<Value, Failure> {
    if !path.is_absolute() {
        return Err(Failure::new("the file needs a whole path").with_hint("begin it with /"));
    }
    let failed = |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut file = Some(File::create(&temporary).map_err(failed)?);
    let written = tables(speaker, config, hostname, &mut file).await;
    let done = match written {
        Ok(counts) => std::fs::rename(&temporary, path).map_err(failed).map(|()| counts),
        Err(error) => Err(error),
    };
    if done.is_err() {
        // It may not be there any more.
        let _ = std::fs::remove_file(&temporary);
    }
    let (prefixes, routes, peers) = done?;
    Ok(json!({ "file": path, "prefixes": prefixes, "routes": routes, "peers": peers }))
}

async fn tables(
    speaker: &SpeakerHandle,
    config: &SpeakerConfig,
    hostname: &str,
    file: &mut Option<File>,
) -> Result<(u64, u64, usize), Failure> {
    let now = SystemTime::now();
    let (index, entries) = peer_index(config, &speaker.peers().await?);
    let mut out = BytesMut::new();
    write::peer_index(&mut out, now, config.router_id.addr(), hostname, &entries);
    let (mut prefixes, mut routes) = (0u64, 0u64);
    for family in Family::ALL {
        let mut cursor = 0;
        loop {
            let ask = move |rib: &mut Rib| {
                let mut cursor = cursor;
                rib.dump_paths(family, &mut cursor, PIECE).map(|piece| (piece, cursor))
            };
            let Some((piece, next)) = speaker.query(ask).await? else { break };
            cursor = next;
            for (prefix, paths) in &piece {
                let written = put(&mut out, now, prefixes, *prefix, paths, &index);
                prefixes += u64::from(written > 0);
                routes += written;
            }
            write_out(file, &mut out).await?;
        }
    }
    write_out(file, &mut out).await?;
    Ok((prefixes, routes, entries.len()))
}

/// Ourselves first, then the neighbours; and the place of each.
fn peer_index(config: &SpeakerConfig, peers: &[PeerStatus]) -> (HashMap<PeerId, u16>, Vec<PeerIndexEntry>) {
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let mut entries = vec![PeerIndexEntry {
        router_id: config.router_id.addr(),
        address: unspecified.into(),
        asn: config.asn.get(),
    }];
    let mut index = HashMap::new();
    for peer in peers {
        let mut address = [peer.address.as_deref(), Some(peer.peer.as_str())].into_iter().flatten();
        let address = address.find_map(|text| text.split('%').next()?.parse::<IpAddr>().ok());
        let Ok(place) = u16::try_from(entries.len()) else { break };
        index.insert(peer.id, place);
        entries.push(PeerIndexEntry {
            router_id: peer.router_id.as_deref().and_then(|id| id.parse().ok()).unwrap_or(unspecified),
            address: address.unwrap_or(unspecified.into()),
            asn: peer.asn.unwrap_or(0),
        });
    }
    (index, entries)
}

/// Appends the record of a prefix. A path of a neighbour that has come after the index was made is left out.
fn put(
    out: &mut BytesMut,
    now: SystemTime,
    sequence: u64,
    prefix: Prefix,
    paths: &[DumpedRoute],
    index: &HashMap<PeerId, u16>,
) -> u64 {
    let route = |path: &'_ DumpedRoute| {
        let peer_index = match path.peer {
            None => 0,
            Some(peer) => *index.get(&peer)?,
        };
        Some((peer_index, now - Duration::from_secs(path.age.into())))
    };
    let routes: Vec<write::Route<'_>> = paths
        .iter()
        .filter_map(|path| {
            let (peer_index, originated) = route(path)?;
            Some(write::Route {
                peer_index,
                originated,
                path_id: path.path_id,
                attributes: &path.attributes,
                next_hop: path.next_hop,
            })
        })
        .collect();
    if routes.is_empty() {
        return 0;
    }
    let add_path = routes.iter().any(|route| route.path_id != 0);
    write::rib(out, now, sequence as u32, prefix, add_path, &routes);
    routes.len() as u64
}

async fn write_out(file: &mut Option<File>, out: &mut BytesMut) -> Result<(), Failure> {
    let (bytes, handle) = (out.split(), file.take());
    let write = move || -> std::io::Result<Option<File>> {
        let mut handle = handle;
        if let Some(file) = &mut handle {
            file.write_all(&bytes)?;
        }
        Ok(handle)
    };
    let written = tokio::task::spawn_blocking(write).await.map_err(|e| Failure::new(e.to_string()))?;
    *file = written.map_err(|error| Failure::new(format!("cannot write the dump: {error}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bgp::{
            mrt::{MrtEntry, MrtReader},
            rib::LocalRoute,
            speaker::Speaker,
        },
        model::{Asn, RouterId},
        netlink::ns::testing,
    };

    #[test]
    fn a_dump_holds_every_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rib.mrt");
        let file = path.clone();
        testing::private(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let id = RouterId::new([10, 0, 0, 1].into()).unwrap();
                let mut config = SpeakerConfig::new(Asn::new(64512).unwrap(), id);
                config.listen.clear();
                let route = |n: u32| {
                    let prefix = Prefix::host(Ipv4Addr::from_bits(0x0A00_0000 + n).into());
                    (prefix, LocalRoute { med: Some(n), ..LocalRoute::default() })
                };
                let mut routes: Vec<_> = (0..5000).map(route).collect();
                routes.push(("2001:db8::/32".parse().unwrap(), LocalRoute::default()));
                let (speaker, _events) = Speaker::start(config.clone(), routes).unwrap();
                let answer = dump(&speaker, &config, "host1", &file).await.unwrap();
                assert_eq!(
                    (answer["prefixes"].as_u64(), answer["routes"].as_u64()),
                    (Some(5001), Some(5001))
                );
                let relative = dump(&speaker, &config, "host1", Path::new("x.mrt")).await.unwrap_err();
                assert!(relative.to_string().contains("whole path"), "{relative}");
                let nowhere =
                    dump(&speaker, &config, "host1", Path::new("/nonexistent/x.mrt")).await.unwrap_err();
                assert!(nowhere.to_string().contains("cannot write"), "{nowhere}");
            });
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        let bytes = std::fs::read(&path).unwrap();
        let entries: Vec<_> = MrtReader::new(&bytes[..]).map(|r| r.unwrap().entry().unwrap()).collect();
        let MrtEntry::PeerIndex(index) = &entries[0] else { panic!() };
        assert_eq!((index.view.as_str(), index.peers.len(), index.peers[0].asn), ("host1", 1, 64512));
        for (i, entry) in entries[1..].iter().enumerate() {
            let MrtEntry::Rib(rib) = entry else { panic!() };
            assert_eq!((rib.sequence as usize, rib.entries.len()), (i, 1));
        }
        let theirs = bgpkit_parser::BgpkitParser::from_reader(std::io::Cursor::new(bytes));
        assert_eq!(theirs.into_iter().count(), 5001);
    }
}
