//! `lab-tool inject`: one BGP connection, driven by lines on stdin: `connect ADDRESS`, `accept`, `send HEX`,
//! `receive MILLISECONDS`, `close`.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const PORT: u16 = 179;
const CONNECT: Duration = Duration::from_secs(10);
const HEADER: usize = 19;

/// Serves until stdin ends.
pub fn run() -> Result<()> {
    println!("ready");
    let mut stream: Option<TcpStream> = None;
    let mut kept = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb {
            "connect" => open(rest).map(|new| {
                kept.clear();
                stream = Some(new);
                "ok".to_owned()
            }),
            "accept" => accept().map(|new| {
                kept.clear();
                stream = Some(new);
                "ok".to_owned()
            }),
            "close" => {
                stream = None;
                Ok("ok".to_owned())
            }
            "send" => send(stream.as_mut(), rest).map(|()| "ok".to_owned()),
            "receive" => receive(stream.as_mut(), &mut kept, rest),
            _ => Err(anyhow::anyhow!("unknown verb {verb}")),
        };
        println!("{}", answer.unwrap_or_else(|error| format!("error {error:#}")));
    }
    Ok(())
}

fn open(to: &str) -> Result<TcpStream> {
    let to: IpAddr = to.parse().context("address")?;
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), CONNECT).context("connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn accept() -> Result<TcpStream> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))).context("listen")?;
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    while start.elapsed() < CONNECT {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error).context("accept"),
        }
    }
    bail!("nobody called")
}

fn send(stream: Option<&mut TcpStream>, hex: &str) -> Result<()> {
    let bytes = hex::decode(hex).context("hexadecimal digits")?;
    stream.context("not connected")?.write_all(&bytes).context("send")
}

fn receive(stream: Option<&mut TcpStream>, kept: &mut Vec<u8>, limit: &str) -> Result<String> {
    let stream = stream.context("not connected")?;
    let end = Instant::now() + Duration::from_millis(limit.parse().context("milliseconds")?);
    loop {
        if kept.len() >= HEADER {
            let length = usize::from(u16::from_be_bytes([kept[16], kept[17]]));
            if length < HEADER {
                bail!("a message of {length} bytes");
            }
            if kept.len() >= length {
                let message: Vec<u8> = kept.drain(..length).collect();
                return Ok(format!("message {} {}", message[18], hex::encode(&message[HEADER..])));
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok("silence".to_owned());
        }
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return Ok("closed".to_owned()),
            Ok(length) => kept.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Ok("closed".to_owned()),
        }
    }
}
