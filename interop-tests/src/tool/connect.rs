//! `lab-tool connect ADDRESS PORT`: does a TCP connection open?

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// Long enough for one retransmission of a SYN.
const LIMIT: Duration = Duration::from_millis(1500);

/// Opens a connection and closes it.
pub fn run(to: IpAddr, port: u16) -> Result<()> {
    let address = SocketAddr::new(to, port);
    TcpStream::connect_timeout(&address, LIMIT).map(drop).with_context(|| format!("connect to {address}"))
}
