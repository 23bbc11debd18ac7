//! Questions about routes, answered by the RIB piece by piece so that it never stops for long.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{
    api::{Failure, RibQuery},
    bgp::{
        rib::{RouteFilter, RouteRow, RouteSource},
        speaker::{SpeakerError, SpeakerHandle},
    },
    model::Prefix,
    routes::{self as fib_routes, thread::FibHandle},
};

/// Prefixes asked for at once: a few milliseconds of the RIB's time.
const PIECE: usize = 2000;

/// `bgp rib`.
pub(super) async fn rib(speaker: &SpeakerHandle, query: RibQuery) -> Result<Vec<RouteRow>, SpeakerError> {
    let source = match (&query.received, &query.advertised) {
        (Some(peer), _) => RouteSource::Received(speaker.find(peer).await?),
        (None, Some(peer)) => RouteSource::Advertised(speaker.find(peer).await?),
        (None, None) => RouteSource::All,
    };
    let filter = RouteFilter { prefix: query.prefix, longer: query.longer, source, ..RouteFilter::default() };
    let limit = if query.limit == 0 { usize::MAX } else { query.limit };
    let mut rows = Vec::new();
    each_piece(speaker, filter, |piece| {
        rows.extend(piece);
        rows.len() < limit
    })
    .await?;
    rows.truncate(limit);
    Ok(rows)
}

/// Learned host routes inside the pools, and how many of them tell no identity.
pub(super) async fn pool_routes(
    speaker: &SpeakerHandle,
    pools: Vec<Prefix>,
) -> Result<(usize, usize), SpeakerError> {
    let (mut all, mut without) = (0, 0);
    for pool in pools {
        let filter = RouteFilter {
            prefix: Some(pool),
            longer: true,
            source: RouteSource::Best,
            ..RouteFilter::default()
        };
        each_piece(speaker, filter, |piece| {
            for row in piece.iter().filter(|row| row.from.is_some() && row.prefix.is_host()) {
                all += 1;
                without += usize::from(row.identity.is_empty());
            }
            true
        })
        .await?;
    }
    Ok((all, without))
}

/// Hands the rows of a filter to `take`, piece by piece, until it has enough.
pub(super) async fn each_piece(
    speaker: &SpeakerHandle,
    mut filter: RouteFilter,
    mut take: impl FnMut(Vec<RouteRow>) -> bool,
) -> Result<(), SpeakerError> {
    filter.limit = PIECE;
    loop {
        let asked = filter.clone();
        let rows = speaker.query(move |rib| rib.routes(&asked)).await?;
        let Some(last) = rows.last().map(|row| row.prefix) else { return Ok(()) };
        filter.after = Some(last);
        // Every prefix has a row: fewer rows were all. To ask once more would take another look at the whole table.
        let all = rows.len() < PIECE;
        if !take(rows) || all {
            return Ok(());
        }
    }
}

/// `bgp explain`: of the prefix, or of the longest one that covers it when it is a host's.
pub(super) async fn explain(
    speaker: &SpeakerHandle,
    fib: &FibHandle,
    prefix: Prefix,
) -> Result<Value, Failure> {
    let address: Option<IpAddr> = prefix.is_host().then(|| prefix.addr());
    let found = speaker
        .query(move |rib| {
            rib.explain(prefix).or_else(|| {
                let filter = RouteFilter { address, limit: 1, ..RouteFilter::default() };
                let longest = address.and_then(|_| rib.routes(&filter).first().map(|row| row.prefix))?;
                rib.explain(longest)
            })
        })
        .await?;
    let Some(explanation) = found else {
        let verdict = if prefix.is_martian() {
            "it is never routed (loopback, link-local, multicast or reserved): announcements of it are refused"
        } else {
            "no path is known"
        };
        return Ok(json!({ "prefix": prefix, "verdict": verdict, "paths": [] }));
    };
    let peers = speaker.peers().await?;
    let name = |id| peers.iter().find(|p| p.id == id).map(|p| p.peer.clone());
    let advertised: Vec<String> = explanation.advertised_to.iter().filter_map(|id| name(*id)).collect();
    let mut value = serde_json::to_value(&explanation).map_err(|e| Failure::new(e.to_string()))?;
    value["advertised_to"] = json!(advertised);
    let filter =
        fib_routes::RouteFilter { prefix: Some(explanation.prefix), ..fib_routes::RouteFilter::default() };
    let routes = fib.routes(filter).await.map_err(|e| Failure::new(e.to_string()))?;
    if let Some(route) = routes.iter().find(|route| route.prefix == explanation.prefix) {
        value["kernel"] = json!({
            "installed": route.installed, "reason": route.reason, "detail": route.detail, "foreign": route.foreign,
        });
    }
    Ok(value)
}
