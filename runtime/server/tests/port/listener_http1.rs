//! Requests over HTTP/1.1 whose end can be told in two ways: a proxy in front may see other
//! requests than the server does. None of them is followed by a second answer.

use canopy::edge::listener::{Options, Security};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::attack::attacked;
use crate::edge::{loopback, within};

/// What a proxy is to take for a body, and the server for a request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_are_refused_and_end_the_connection() {
    let length = HIDDEN.len();
    let chunked = format!("0\r\n\r\n{HIDDEN}");
    for (case, head, rest, status) in [
        ("both", format!("content-length: {length}\r\ntransfer-encoding: chunked"), chunked.as_str(), 411),
        ("both, the other way round", format!("transfer-encoding: chunked\r\ncontent-length: {length}"), &chunked, 411),
        ("chunked alone", "transfer-encoding: chunked".to_owned(), &chunked, 411),
        ("chunked, not last", "transfer-encoding: chunked, identity".to_owned(), &chunked, 400),
        ("an unknown encoding", "transfer-encoding: xchunked".to_owned(), &chunked, 400),
        ("two lengths", format!("content-length: 0\r\ncontent-length: {length}"), HIDDEN, 400),
        ("two lengths in one", format!("content-length: 0, {length}"), HIDDEN, 400),
        ("a signed length", "content-length: +0".to_owned(), HIDDEN, 400),
        ("no number", "content-length: 0x0".to_owned(), HIDDEN, 400),
        ("a blank before the colon", "content-length : 0".to_owned(), HIDDEN, 400),
        ("a folded line", "x: a\r\n content-length: 0".to_owned(), HIDDEN, 400),
        ("a carriage return alone", "x: a\rcontent-length: 0".to_owned(), HIDDEN, 400),
    ] {
        for kind in ["text/plain", "application/grpc-web+proto", "application/grpc"] {
            let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\n{head}\r\n\r\n{rest}");
            let (answer, _) = attacked(Options::new(loopback(), Security::Plaintext), async |address| {
                let mut stream = within(TcpStream::connect(address)).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                // Closed with bytes unread, it resets after its answer.
                let _ = within(stream.read_to_end(&mut answer)).await;
                String::from_utf8(answer).unwrap()
            })
            .await;
            let statuses: Vec<&str> = answer.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
            let [only] = statuses[..] else { panic!("{case}: {answer}") };
            assert!(only.contains(&status.to_string()), "{case}: {only}");
        }
    }
}
