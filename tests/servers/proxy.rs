//! A proxy between a client and a server that does to connections what networks do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

use super::TestResult;

/// What happens to connections, from now on and to those that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Everything goes through.
    None,
    /// Everything goes through, this much later.
    Delay(Duration),
    /// Connections are taken and reset at once.
    Refuse,
    /// Connections are taken, and what is sent over them is swallowed.
    HalfOpen,
}

/// When a connection is cut because of what the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Instead of passing it on.
    Before,
    /// Instead of passing the answer on.
    After,
}

type Matcher = Box<dyn Fn(&[u8]) -> bool + Send>;

struct State {
    fault: Fault,
    /// How many more requests that match are cut.
    cut: Option<(Cut, usize, Matcher)>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    /// Told when all open connections are to be cut.
    cut_all: Notify,
    connections: AtomicUsize,
    cuts: AtomicUsize,
}

/// A proxy on a port of its own, run by a thread of its own.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

impl Proxy {
    /// Starts a proxy to a port of this machine.
    pub(crate) fn start(upstream: u16) -> TestResult<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: ([127, 0, 0, 1], upstream).into(),
            state: Mutex::new(State { fault: Fault::None, cut: None }),
            cut_all: Notify::new(),
            connections: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
        });
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

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes what happens to connections.
    pub(crate) fn set(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Cuts all connections that are open.
    pub(crate) fn cut_all(&self) {
        self.shared.cut_all.notify_waiters();
    }

    /// Cuts the connection of each of the next `times` requests that match, without passing the request on.
    pub(crate) fn cut_before(&self, times: usize, matches: impl Fn(&[u8]) -> bool + Send + 'static) {
        self.state().cut = Some((Cut::Before, times, Box::new(matches)));
    }

    /// Cuts the connection of each of the next `times` requests that match, once the server has answered.
    pub(crate) fn cut_after(&self, times: usize, matches: impl Fn(&[u8]) -> bool + Send + 'static) {
        self.state().cut = Some((Cut::After, times, Box::new(matches)));
    }

    /// Returns how many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns how many requests were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.take();
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fault
    }

    /// Tells whether a request is one of those to be cut, and counts it.
    fn cut(&self, request: &[u8]) -> Option<Cut> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (cut, times, matches) = state.cut.as_mut()?;
        if *times == 0 || !matches(request) {
            return None;
        }
        *times -= 1;
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Some(*cut)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(client, Arc::clone(&shared)));
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    // Whatever ends the connection, it ends in a reset: nobody says goodbye.
    let _ = client.set_zero_linger();
    if shared.fault() == Fault::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = pass(client, server, &shared) => {}
        () = shared.cut_all.notified() => {}
    }
}

/// Passes bytes on until either side ends the connection, or a fault does.
async fn pass(mut client: TcpStream, mut server: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let (mut request, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut is_cut_after = false;
    loop {
        tokio::select! {
            bytes = client.read(&mut request) => {
                let bytes = bytes?;
                if bytes == 0 {
                    return Ok(());
                }
                match shared.cut(&request[..bytes]) {
                    Some(Cut::Before) => return Ok(()),
                    Some(Cut::After) => is_cut_after = true,
                    None => {}
                }
                if hold(shared).await {
                    server.write_all(&request[..bytes]).await?;
                }
            }
            bytes = server.read(&mut answer) => {
                let bytes = bytes?;
                if bytes == 0 || is_cut_after {
                    return Ok(());
                }
                if hold(shared).await {
                    client.write_all(&answer[..bytes]).await?;
                }
            }
        }
    }
}

/// Waits as long as the fault wants; `false` when the bytes are to be swallowed.
async fn hold(shared: &Shared) -> bool {
    match shared.fault() {
        Fault::None => true,
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            true
        }
        Fault::Refuse => false,
        Fault::HalfOpen => false,
    }
}
