//! A proxy before AWS KMS, in one region or several, which answers in its place as networks, operators and the service itself would.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::TestResult;

/// What happens to requests, from now on.
#[derive(Debug, Clone)]
pub(crate) enum AwsFault {
    /// They go through.
    None,
    /// They go through, this much later.
    Delay(Duration),
    /// The service refuses.
    Error(AwsError),
    /// The service answers this, with status 200.
    Answer(Value),
    /// Something else answers, with a status and a page.
    Page(u16, &'static str),
    /// The connection ends in place of the answer.
    Cut,
    /// The connection ends within the answer.
    CutAnswer,
    /// Connections are reset as soon as they are made.
    Refuse,
    /// There is no answer.
    Swallow,
}

/// A refusal.
#[derive(Debug, Clone)]
pub(crate) struct AwsError {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The time of the service, where that is not now: `Mon, 01 Jan 2001 00:00:00 GMT`.
    pub(crate) date: Option<&'static str>,
}

impl AwsFault {
    /// The service refuses with this code.
    pub(crate) fn error(status: u16, code: &'static str) -> Self {
        Self::Error(AwsError { status, code, message: "The words of the service.".to_owned(), date: None })
    }
}

/// A request that was read, and what was answered.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// What was asked for: `Encrypt`.
    pub(crate) operation: String,
    /// The first line and the headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Empty until there is one.
    pub(crate) answer: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// By operation or region; that of the empty name is for all others.
    faults: HashMap<String, AwsFault>,
    seen: Vec<Exchange>,
}

struct Shared {
    upstream: SocketAddr,
    /// Whether the upstream goes by the names of the service's hosts.
    is_named: bool,
    state: Mutex<State>,
}

/// A proxy on a port of its own, run by a thread of its own.
pub(crate) struct AwsProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

impl AwsProxy {
    /// Starts a proxy to a port of this machine.
    pub(crate) fn start(upstream: u16) -> TestResult<Self> {
        Self::start_as(upstream, false)
    }

    /// Starts a proxy to a port of this machine whose server tells services and regions by the names of their hosts.
    pub(crate) fn start_to_hosts(upstream: u16) -> TestResult<Self> {
        Self::start_as(upstream, true)
    }

    fn start_as(upstream: u16, is_named: bool) -> TestResult<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let upstream = ([127, 0, 0, 1], upstream).into();
        let shared = Arc::new(Shared { upstream, is_named, state: Mutex::default() });
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let owned = Arc::clone(&shared);
        thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! { () = accept(listener, owned) => {} _ = stopped => {} }
            });
        });
        Ok(Self { shared, address, stop: Some(stop) })
    }

    /// Returns where it is.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what happens to all requests.
    pub(crate) fn set(&self, fault: AwsFault) {
        self.state().faults = HashMap::from([(String::new(), fault)]);
    }

    /// Changes what happens to requests of one kind, or to one region.
    pub(crate) fn set_for(&self, operation_or_region: &str, fault: AwsFault) {
        self.state().faults.insert(operation_or_region.to_owned(), fault);
    }

    /// Returns the requests that were read, in their order.
    pub(crate) fn seen(&self) -> Vec<Exchange> {
        self.state().seen.clone()
    }

    /// Returns how many requests of a kind were read.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.state().seen.iter().filter(|exchange| exchange.operation == operation).count()
    }

    /// Forgets what was read.
    pub(crate) fn forget(&self) {
        self.state().seen.clear();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for AwsProxy {
    fn drop(&mut self) {
        self.stop.take();
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, operation: &str, region: &str) -> AwsFault {
        let state = self.state();
        let found = [operation, region, ""].into_iter().find_map(|name| state.faults.get(name));
        found.cloned().unwrap_or(AwsFault::None)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(serve(client, Arc::clone(&shared)));
    }
}

/// Answers requests of a connection, one after the other, until it ends.
async fn serve(mut client: TcpStream, shared: Arc<Shared>) -> Option<()> {
    // Whatever ends the connection, it ends in a reset: nobody says goodbye.
    let _ = (client.set_zero_linger(), client.set_nodelay(true));
    loop {
        if matches!(shared.fault("", ""), AwsFault::Refuse) {
            return None;
        }
        let (head, body) = read_message(&mut client).await?;
        let operation = header(&head, "x-amz-target").and_then(|target| target.split_once('.')).map(|(_, name)| name);
        let operation = operation.unwrap_or_default().to_owned();
        let region = region(&head).unwrap_or_default();
        let fault = shared.fault(&operation, region);
        let at = {
            let mut state = shared.state();
            let (head, body) = (head.clone(), body.clone());
            state.seen.push(Exchange { operation, head, body, answer: Vec::new() });
            state.seen.len() - 1
        };
        let is_cut = matches!(fault, AwsFault::CutAnswer);
        let (head, answer) = match fault {
            AwsFault::Refuse | AwsFault::Cut => return None,
            AwsFault::Swallow => {
                // Until the client gives up.
                let _ = client.read(&mut [0; 1]).await;
                return None;
            }
            AwsFault::Error(error) => {
                let message = error.message.replace('"', "'");
                let body = format!(r#"{{"__type":"{}","message":"{message}"}}"#, error.code);
                let date = error.date.map(|date| format!("date: {date}\r\n")).unwrap_or_default();
                (
                    format!("HTTP/1.1 {} x\r\ncontent-type: application/x-amz-json-1.1\r\n{date}", error.status),
                    body.into(),
                )
            }
            AwsFault::Answer(body) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\n".to_owned();
                (head, format!("{body:#}").into())
            }
            AwsFault::Page(status, page) => {
                (format!("HTTP/1.1 {status} x\r\ncontent-type: text/html\r\n"), page.into())
            }
            AwsFault::None | AwsFault::CutAnswer => pass(&shared, &head, &body).await?,
            AwsFault::Delay(time) => {
                tokio::time::sleep(time).await;
                pass(&shared, &head, &body).await?
            }
        };
        if let Some(exchange) = shared.state().seen.get_mut(at) {
            exchange.answer.clone_from(&answer);
        }
        let head = format!("{head}content-length: {}\r\n\r\n", answer.len());
        client.write_all(head.as_bytes()).await.ok()?;
        if is_cut {
            return None;
        }
        client.write_all(&answer).await.ok()?;
    }
}

/// Has the server answer, over a connection of its own.
async fn pass(shared: &Shared, head: &str, body: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut server = TcpStream::connect(shared.upstream).await.ok()?;
    let keep = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
    let mut text = String::new();
    for line in head.lines().filter(keep) {
        if shared.is_named && line.to_ascii_lowercase().starts_with("host:") {
            text.push_str(&format!("host: kms.{}.amazonaws.com", region(head)?));
        } else {
            text.push_str(line);
        }
        text.push_str("\r\n");
    }
    text.push_str("connection: close\r\n\r\n");
    server.write_all(&[text.as_bytes(), body].concat()).await.ok()?;
    let (mut head, mut body) = read_message(&mut server).await?;
    // moto refuses what another key has wrapped as if a right were missing. The service has a code for it:
    // https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html#API_Decrypt_Errors
    const DENIED: &str = "AccessDeniedException";
    const INCORRECT: &str = "IncorrectKeyException";
    if body == format!(r#"{{"__type":"{DENIED}"}}"#).as_bytes() {
        (head, body) = (head.replace(DENIED, INCORRECT), format!(r#"{{"__type":"{INCORRECT}"}}"#).into());
    }
    let keep = |line: &&str| {
        let line = line.to_ascii_lowercase();
        !["connection:", "content-length:", "transfer-encoding:"].iter().any(|name| line.starts_with(name))
    };
    let mut lines = head.lines().filter(keep);
    let status = lines.next()?.split_once(' ')?.1;
    let mut head = format!("HTTP/1.1 {status}\r\n");
    lines.for_each(|line| head.push_str(&format!("{line}\r\n")));
    Some((head, body))
}

/// Reads a head, without the empty line, and the body that it announces.
async fn read_message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let size: usize = header(&head, "content-length").map_or(Ok(0), str::parse).ok()?;
            if bytes.len() >= end + 4 + size {
                return Some((head, bytes[end + 4..end + 4 + size].to_vec()));
            }
        }
        let mut more = [0; 4096];
        let read = stream.read(&mut more).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&more[..read]);
    }
}

/// Returns the value of a header.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name));
    head.lines().find_map(of).map(|(_, value)| value.trim())
}

/// Returns the region that a request is signed for: `Credential=ID/DAY/REGION/kms/aws4_request`.
fn region(head: &str) -> Option<&str> {
    header(head, "authorization")?.split('/').nth(2)
}
