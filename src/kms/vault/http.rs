//! Requests and answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::failures;
use super::options::VaultOptions;
use super::tls::TlsFiles;
use super::wire::Secret;
use crate::clients::Clients;
use crate::error::{KmsFailure, KmsFailureKind};

/// The largest answer that is read; those of Transit are below a kilobyte, a login's a few.
const MOST: usize = 1 << 20;

/// How long a connection that nobody uses is kept: less than servers and what stands before them keep theirs.
const IDLE: Duration = Duration::from_secs(30);

type Client = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// One server, as requests are sent to it.
pub(super) struct Http {
    url: String,
    namespace: Option<HeaderValue>,
    connect_timeout: Duration,
    deadline: Duration,
    tls: Arc<TlsFiles>,
    clients: Mutex<Option<Arc<Clients<Client>>>>,
}

/// What the server answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Secret,
}

/// A body that can be sent more than once and is wiped when the last copy is gone.
#[derive(Clone)]
pub(super) struct Body(Bytes);

impl From<Secret> for Body {
    fn from(body: Secret) -> Self {
        Self(Bytes::from_owner(body))
    }
}

impl Http {
    pub(super) fn new(options: &VaultOptions) -> Self {
        let namespace = options.namespace.as_deref().and_then(|namespace| HeaderValue::from_str(namespace).ok());
        Self {
            url: options.url.clone(),
            namespace,
            connect_timeout: options.connect_timeout,
            deadline: options.connect_timeout + options.request_timeout,
            tls: Arc::new(TlsFiles::of(options)),
            clients: Mutex::default(),
        }
    }

    /// Returns where the server is, for errors.
    pub(super) fn place(&self) -> &str {
        &self.url
    }

    /// Returns how long a request may take.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Sends a request once and returns what the server answered, whatever that is. Follows no redirects and uses no proxy.
    ///
    /// # Errors
    /// That there is no answer.
    pub(super) async fn send(
        &self,
        path: &str,
        token: Option<&SecretString>,
        body: Option<Body>,
    ) -> Result<Answer, KmsFailure> {
        let client = self.client().await?;
        let mut request = Request::builder()
            .method(if body.is_some() { Method::POST } else { Method::GET })
            .uri(format!("{}/v1/{path}", self.url))
            // Agents may be set up to take no others: a browser cannot be made to send it.
            .header("x-vault-request", "true")
            .header(CONTENT_TYPE, "application/json");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            request = request.header("x-vault-token", self.header(token)?);
        }
        let request = request.body(Full::new(body.map(|body| body.0).unwrap_or_default())).map_err(|error| {
            KmsFailure::new(self.place(), KmsFailureKind::Refused, format!("no request can be made: {error}"))
        })?;
        let answer = async {
            let answer = client.request(request).await.map_err(|error| failures::unsent(self.place(), &error))?;
            let (parts, body) = answer.into_parts();
            let body = self.read(Limited::new(body, MOST)).await?;
            Ok(Answer { status: parts.status, body })
        };
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(failures::late(self.place(), self.deadline)),
        }
    }

    /// Reads the rest of an answer into memory that is wiped.
    async fn read(&self, mut body: Limited<hyper::body::Incoming>) -> Result<Secret, KmsFailure> {
        let mut bytes: Secret = Zeroizing::new(Vec::with_capacity(4096));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| failures::unread(self.place(), &*error))?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > bytes.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(2 * (bytes.len() + data.len())));
                larger.extend_from_slice(&bytes);
                bytes = larger;
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    }

    fn header(&self, token: &SecretString) -> Result<HeaderValue, KmsFailure> {
        let bytes: Secret = Zeroizing::new(token.expose_secret().as_bytes().to_vec());
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).map_err(|_| {
            let reason = "the token has characters that no token has";
            KmsFailure::new(self.place(), KmsFailureKind::Credentials, reason)
                .advise("check what gives the token: is it the token alone?")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Has certificates read anew, for connections from now on.
    pub(super) fn forget_certificates(&self) {
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn client(&self) -> Result<Client, KmsFailure> {
        // A poisoned lock is taken all the same: what it guards is whole whoever panicked.
        let known = self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(clients) = known {
            return Ok(clients.get());
        }
        let tls = Arc::clone(&self.tls);
        let read = tokio::task::spawn_blocking(move || tls.read()).await;
        let config =
            read.unwrap_or_else(|_| Err("reading certificates was given up".to_owned())).map_err(|reason| {
                KmsFailure::new(self.place(), KmsFailureKind::Refused, reason)
                    .advise("name PEM files: ca, cert and key")
            })?;
        let timeout = self.connect_timeout;
        let clients = Arc::new(Clients::new(move || client(config.clone(), timeout)));
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&clients));
        Ok(clients.get())
    }
}

fn client(tls: ClientConfig, connect_timeout: Duration) -> Client {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    let tls = HttpsConnectorBuilder::new().with_tls_config(tls);
    hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .build(tls.https_or_http().enable_http1().wrap_connector(tcp))
}
