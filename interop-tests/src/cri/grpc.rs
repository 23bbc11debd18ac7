//! One unary gRPC call over a Unix socket: an HTTP/2 request whose body is a length and a Protobuf message.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use prost::Message;
use tokio::net::UnixStream;

/// Pulls and starts are slow on a loaded computer.
const LIMIT: Duration = Duration::from_secs(60);
/// Octets before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Calls `method` (`/package.Service/Method`) and waits for the answer.
pub(super) fn call<A: Message + Default>(socket: &Path, method: &str, request: &impl Message) -> Result<A> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let mut body = BytesMut::zeroed(PREFIX);
    request.encode(&mut body).context("encode")?;
    let length = u32::try_from(body.len() - PREFIX).context("the request is too long")?;
    (&mut body[1..PREFIX]).put_u32(length);
    let exchange = exchange(socket, method, body.freeze());
    let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, exchange).await });
    let answer = answer.context("no answer in time").flatten().with_context(|| method.to_owned())?;
    A::decode(answer).with_context(|| format!("{method}: the answer"))
}

async fn exchange(socket: &Path, method: &str, body: Bytes) -> Result<Bytes> {
    let stream = UnixStream::connect(socket).await.with_context(|| format!("{}", socket.display()))?;
    let (mut client, connection) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut sender) = client.send_request(request, false)?;
    sender.send_data(body, true)?;
    let response = response.await?;
    ensure!(response.status().is_success(), "HTTP status {}", response.status());
    // An error may come without a body, in the headers.
    check(response.headers())?;
    let mut received = response.into_body();
    let mut answer = BytesMut::new();
    while let Some(chunk) = received.data().await {
        let chunk = chunk?;
        received.flow_control().release_capacity(chunk.len())?;
        answer.extend_from_slice(&chunk);
    }
    if let Some(trailers) = received.trailers().await? {
        check(&trailers)?;
    }
    driver.abort();
    ensure!(answer.len() >= PREFIX, "an answer of {} octets", answer.len());
    Ok(answer.split_off(PREFIX).freeze())
}

fn check(headers: &http::HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some(status) => bail!("status {status}: {}", text("grpc-message").unwrap_or_default()),
    }
}
