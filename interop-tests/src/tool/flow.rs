//! `lab-tool flow ADDRESS PORT`: one TCP connection, a line every few milliseconds and its echo.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{milliseconds, stop_at_end_of_stdin};
use crate::probe::FlowReport;

const CONNECT: Duration = Duration::from_secs(5);
/// An echo that takes longer than this means the connection was cut.
const ECHO: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Talks until stdin ends or the connection does, then prints the report.
pub fn run(to: IpAddr, port: u16) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), CONNECT).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ECHO))?;
    let mut replies = BufReader::new(stream.try_clone().context("clone the stream")?);
    let mut report = FlowReport { echoed: 0, slowest_ms: 0.0, error: None };
    exchange(&mut stream, &mut replies, &mut report).context("first line")?;
    println!("ready");

    let stop = stop_at_end_of_stdin();
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = exchange(&mut stream, &mut replies, &mut report) {
            report.error = Some(format!("{error:#}"));
            break;
        }
        std::thread::sleep(PAUSE);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn exchange(stream: &mut TcpStream, replies: &mut impl BufRead, report: &mut FlowReport) -> Result<()> {
    let start = Instant::now();
    let line = format!("{}\n", report.echoed);
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    replies.read_line(&mut reply)?;
    anyhow::ensure!(reply == line, "sent {line:?}, got {reply:?}");
    report.echoed += 1;
    report.slowest_ms = report.slowest_ms.max(milliseconds(start.elapsed()));
    Ok(())
}
