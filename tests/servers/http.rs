//! A small HTTP server of a test's own: for what stands between a client and a server, or beside a server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::TestResult;

/// An answer: everything between `HTTP/1.1 ` and the length of the body, and the body.
pub(crate) struct HttpAnswer {
    /// Status and headers: `200 OK\r\ncontent-type: text/html`.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A server that answers one request of each connection.
pub(crate) struct HttpServer {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl HttpServer {
    /// Starts a server whose answers `answer` gives, to requests with head and body.
    pub(crate) fn start(answer: impl Fn(&str) -> HttpAnswer + Send + 'static) -> TestResult<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let (is_over, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ends, counts) = (Arc::clone(&is_over), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                counts.fetch_add(1, Ordering::Relaxed);
                // A client that went away misses nothing.
                let _ = stream.map(|stream| serve(stream, &answer));
            }
        });
        Ok(Self { address, is_over, requests })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&str) -> HttpAnswer) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        let bytes = stream.read(&mut part)?;
        request.extend_from_slice(&part[..bytes]);
        let text = String::from_utf8_lossy(&request);
        let is_whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| body.len() >= length(head));
        if is_whole || bytes == 0 {
            break;
        }
    }
    let HttpAnswer { head, body } = answer(&String::from_utf8_lossy(&request));
    let size = body.len();
    stream.write_all(format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n{body}").as_bytes())
}

fn length(head: &str) -> usize {
    let line =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    line.and_then(|size| size.trim().parse().ok()).unwrap_or_default()
}
