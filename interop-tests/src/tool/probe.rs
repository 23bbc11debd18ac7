//! `lab-tool probe ADDRESS PORT RATE`: numbered UDP packets to an echo server, and what came back.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::{milliseconds, stop_at_end_of_stdin};
use crate::probe::ProbeReport;

/// How long to wait for the first answer, before anything is counted.
const FIRST: Duration = Duration::from_secs(10);
/// How long to wait for answers after the last packet.
const LAST: Duration = Duration::from_millis(500);
/// How many lost packets a report lists.
const LISTED: usize = 100;

/// Sends until stdin ends, then prints the report.
pub fn run(to: IpAddr, port: u16, rate: u32) -> Result<()> {
    let unspecified: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((unspecified, 0)).context("bind")?;
    socket.connect(SocketAddr::new(to, port)).context("connect")?;
    first(&socket)?;
    println!("ready");

    let stop = stop_at_end_of_stdin();
    let done = AtomicBool::new(false);
    let period = Duration::from_secs(1) / rate.max(1);
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let report = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&socket, &done));
        let start = Instant::now();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut sent = 0;
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            sent += 1;
            // An error is the ICMP error of an earlier packet, or no route: the packet is lost.
            times.push(start.elapsed());
            drop(socket.send(&u64::to_be_bytes(sent)));
            let due = start + period * u32::try_from(sent).unwrap_or(u32::MAX);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        std::thread::sleep(LAST);
        done.store(true, Ordering::Relaxed);
        let (seen, longest) = receiver.join().unwrap_or_default();
        let lost = (1..).zip(&times).filter(|(number, _)| !seen.contains(number));
        let lost_at_ms = lost.map(|(_, time)| milliseconds(*time)).take(LISTED).collect();
        ProbeReport {
            started,
            sent,
            received: seen.len() as u64,
            longest_gap_ms: milliseconds(longest),
            lost_at_ms,
        }
    });
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Waits until the path works at all.
fn first(socket: &UdpSocket) -> Result<()> {
    let start = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    while start.elapsed() < FIRST {
        drop(socket.send(&0_u64.to_be_bytes()));
        if socket.recv(&mut [0; 8]).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("no answer within {FIRST:?}")
}

/// Counts each number once. The gap ends with the last answer: silence after it is the end.
fn receive(socket: &UdpSocket, done: &AtomicBool) -> (HashSet<u64>, Duration) {
    let mut seen = HashSet::new();
    let mut last = Instant::now();
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let mut number = [0; 8];
        if let Ok(8) = socket.recv(&mut number) {
            let number = u64::from_be_bytes(number);
            if number != 0 && seen.insert(number) {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
    }
    (seen, longest)
}
