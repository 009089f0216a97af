//! Certificates: of servers, authorities and clients.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use keyward::kms::{KeyManagementService, KmsFailureKind};
use serde_json::json;
use tempfile::TempDir;

use crate::stage::{
    OpenBao, OpenBaoSetup, ROOT, TestResult, all_of, failure, options, says, service, service_of, works, wrapped,
};

/// A server of the name `localhost` that speaks TLS, with what clients need.
struct World {
    server: OpenBao,
    folder: TempDir,
}

impl World {
    fn shared() -> TestResult<Option<&'static Self>> {
        static SHARED: OnceLock<Result<Option<World>, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start().map_err(|error| error.to_string()));
        Ok(shared.as_ref().map_err(String::clone)?.as_ref())
    }

    fn start() -> TestResult<Option<Self>> {
        if crate::servers::lacks("openbao") {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        for name in ["ca", "stranger"] {
            authority(folder.path(), name)?;
        }
        certificate(folder.path(), "ca", "server", "localhost", "DNS:localhost")?;
        certificate(folder.path(), "ca", "client", "app", "DNS:app")?;
        certificate(folder.path(), "ca", "second", "app", "DNS:app")?;
        certificate(folder.path(), "stranger", "impostor", "app", "DNS:app")?;
        let tls = Some(["server.crt", "server.key", "ca.crt"].map(|name| folder.path().join(name)));
        let server = OpenBao::start(&OpenBaoSetup { tls })?;
        Ok(server.map(|server| Self { server, folder }))
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The address of a key with the name `localhost`, with options.
    fn address(&self, key: &str, options: &str) -> String {
        format!("vault:https://localhost:{}/{key}?{options}", self.server.tls_port)
    }

    /// Makes a key, and a role of this server's clients that may use it.
    fn key_of_clients(&self, ttl: &str) -> TestResult<(String, String)> {
        let (key, mount) = (self.server.new_key()?, self.server.name("certificates"));
        self.server.ask("POST", &format!("sys/auth/{mount}"), &json!({"type": "cert"}))?;
        let role = json!({
            "certificate": fs::read_to_string(self.file("ca.crt"))?,
            "allowed_common_names": ["app"],
            "token_policies": [all_of(&self.server, &key)?],
            "token_ttl": ttl,
        });
        self.server.ask("POST", &format!("auth/{mount}/certs/app"), &role)?;
        Ok((key, mount))
    }

    fn shows(&self, mount: &str, name: &str) -> String {
        let [certificate, key] = ["crt", "key"].map(|end| self.file(&format!("{name}.{end}")));
        format!("auth=cert&auth_mount={mount}&ca={}&cert={certificate}&key={key}", self.file("ca.crt"))
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> TestResult {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output()?;
    if !output.status.success() {
        return Err(format!("openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

const NEW_KEY: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

pub(crate) fn authority(folder: &Path, name: &str) -> TestResult {
    let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
    let mut arguments = vec!["req", "-x509", "-nodes", "-days", "3650"];
    arguments.extend(NEW_KEY);
    arguments.extend(["-keyout", &key, "-out", &certificate, "-subj", &subject]);
    openssl(folder, &arguments)
}

/// Makes `NAME.crt` and `NAME.key`, signed by an authority.
fn certificate(folder: &Path, authority: &str, name: &str, subject: &str, others: &str) -> TestResult {
    let [key, request, certificate, extensions] = ["key", "csr", "crt", "ext"].map(|end| format!("{name}.{end}"));
    let subject = format!("/CN={subject}");
    let mut arguments = vec!["req", "-nodes"];
    arguments.extend(NEW_KEY);
    arguments.extend(["-keyout", &key, "-out", &request, "-subj", &subject]);
    openssl(folder, &arguments)?;
    let lines = "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=";
    fs::write(folder.join(&extensions), format!("{lines}{others}\n"))?;
    let [ca, ca_key] = ["crt", "key"].map(|end| format!("{authority}.{end}"));
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "3650"];
    openssl(folder, &[&sign[..], &["-extfile", &extensions, "-out", &certificate]].concat())
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_and_its_name() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let key = world.server.new_key()?;
    let by = |url: &str, options_of: &str| {
        let options = options(url, &format!("{key}?{options_of}"), ROOT)?;
        TestResult::Ok(std::sync::Arc::new(keyward::kms::VaultKms::new(options)?))
    };
    let url = format!("https://localhost:{}", world.server.tls_port);
    let ca = format!("ca={}", world.file("ca.crt"));
    let by_tls = works(&by(&url, &ca)?).await?;
    service(&world.server.url(), &key, ROOT)?.decrypt_key(&by_tls).await?;

    let stranger = format!("ca={}", world.file("stranger.crt"));
    // And one that the system does not know either.
    for options in [stranger.as_str(), ""] {
        let failed = failure(by(&url, options)?.decrypt_key(&by_tls).await)?;
        says(&failed, KmsFailureKind::Refused, &[&url, "UnknownIssuer", "ca=FILE"], &[]);
        assert!(!failed.kind.is_transient());
    }
    let by_number = url.replace("localhost", "127.0.0.1");
    let failed = failure(by(&by_number, &ca)?.decrypt_key(&by_tls).await)?;
    says(&failed, KmsFailureKind::Refused, &[&by_number, "name the host as its certificate does"], &[]);
    Ok(())
}

#[tokio::test]
async fn plain_and_encrypted_ports_are_told_apart() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let key = world.server.new_key()?;
    let swapped = |scheme: &str, port: u16| {
        let failed = service(&format!("{scheme}://localhost:{port}"), &key, ROOT)?;
        TestResult::Ok(async move { failure(failed.decrypt_key(b"vault:v1:AAAA").await) })
    };
    let failed = swapped("http", world.server.tls_port)?.await?;
    says(&failed, KmsFailureKind::Refused, &["check the URL"], &[]);
    let failed = swapped("https", world.server.port)?.await?;
    says(&failed, KmsFailureKind::Refused, &["does the server speak TLS"], &[]);
    Ok(())
}

#[tokio::test]
async fn a_certificate_logs_in() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let (key, mount) = world.key_of_clients("1h")?;
    let by_certificate = works(&service_of(&world.address(&key, &world.shows(&mount, "client")))?).await?;
    let named = world.address(&key, &format!("{}&role=app", world.shows(&mount, "client")));
    service_of(&named)?.decrypt_key(&by_certificate).await?;

    let failed = failure(service_of(&named.replace("role=app", "role=none"))?.decrypt_key(&by_certificate).await)?;
    says(&failed, KmsFailureKind::Credentials, &["check role"], &[]);
    // One that the server does not trust.
    let impostor = service_of(&world.address(&key, &world.shows(&mount, "impostor")))?;
    let failed = failure(impostor.decrypt_key(&by_certificate).await)?;
    assert!(!failed.kind.is_transient(), "{failed}");
    // The key of another certificate, and files that are none.
    let mixed = world.shows(&mount, "client").replace("client.key", "second.key");
    for (options, at_fault) in [
        (mixed, "second.key"),
        (world.shows(&mount, "client").replace("client.crt", "absent.crt"), "absent.crt"),
        (world.shows(&mount, "client").replace("ca.crt", "client.key"), "client.key"),
    ] {
        let failed = failure(service_of(&world.address(&key, &options))?.decrypt_key(&by_certificate).await)?;
        says(&failed, KmsFailureKind::Refused, &[at_fault, "name PEM files"], &["BEGIN"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_was_replaced_is_shown_at_the_next_login() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let (key, mount) = world.key_of_clients("1s")?;
    let by_root = wrapped(&service(&world.server.url(), &key, ROOT)?).await?;
    let put = |name: &str| -> TestResult {
        for end in ["crt", "key"] {
            fs::copy(world.file(&format!("{name}.{end}")), world.file(&format!("current.{end}")))?;
        }
        Ok(())
    };
    put("client")?;
    let kms = service_of(&world.address(&key, &world.shows(&mount, "current")))?;
    kms.decrypt_key(&by_root).await?;
    put("impostor")?;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert!(kms.decrypt_key(&by_root).await.is_err(), "the impostor was shown");
    put("second")?;
    kms.decrypt_key(&by_root).await?;
    Ok(())
}
