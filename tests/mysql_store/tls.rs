//! Which certificates are taken, and what is said about the others.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use keyward::stores::{Metastore, StoreError};
use mysql_async::prelude::Queryable;

use crate::mysql_support::{PASSWORD, Server, UPSTREAM, USER};
use crate::servers::TestResult;
use crate::{assert_permanent, assert_transient, connect, key, shared};

/// A certificate authority in a folder, and what it signed.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    /// Makes one; `None` where there is no `openssl`, which is said.
    fn new() -> TestResult<Option<Self>> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("SKIP: this test needs openssl (Debian: openssl)");
            return Ok(None);
        }
        let authority = Self { folder: tempfile::tempdir()? };
        // The server may run as another user. What is in there is worth nothing.
        std::fs::set_permissions(authority.folder.path(), std::fs::Permissions::from_mode(0o755))?;
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
            -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem",
        )?;
        Ok(Some(authority))
    }

    /// Signs a certificate for `name`, with the names that `extensions` give.
    fn sign(&self, name: &str, extensions: &str) -> TestResult {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ))?;
        std::fs::write(self.path("extensions"), format!("basicConstraints=CA:FALSE\n{extensions}\n"))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ))?;
        Ok(std::fs::set_permissions(self.path(&format!("{name}.key")), std::fs::Permissions::from_mode(0o644))?)
    }

    fn openssl(&self, arguments: &str) -> TestResult {
        let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(&self.folder).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(())
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    /// Starts a server with the certificate of `name`.
    async fn server(&self, name: &str) -> TestResult<Option<(Server, String)>> {
        let files = [("ca", "ca.pem".to_owned()), ("cert", format!("{name}.pem")), ("key", format!("{name}.key"))];
        let options = files.map(|(option, file)| format!("--ssl-{option}={}", self.path(&file)));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let Some(server) = Server::start(&options)? else {
            return Ok(None);
        };
        let database = server.database(UPSTREAM).await?;
        let mut root = server.root("").await?;
        for (user, condition) in [("encrypted", "SSL"), ("certified", "X509")] {
            root.query_drop(format!("GRANT ALL ON *.* TO {user}@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE {condition}"))
                .await?;
        }
        Ok(Some((server, database)))
    }
}

/// Connects and makes one call.
async fn try_it(user: &str, host: &str, server: &Server, rest: &str) -> Result<(), StoreError> {
    let store = connect(&format!("mysql://{user}:{PASSWORD}@{host}:{}/{rest}", server.port())).await?;
    store.load(&key("alice", 5)).await.map(|_| ())
}

#[tokio::test]
async fn each_mode_checks_what_it_says() -> TestResult {
    let Some(authority) = Authority::new()? else { return Ok(()) };
    authority.sign("server", "subjectAltName=DNS:localhost")?;
    let Some((server, keys)) = authority.server("server").await? else { return Ok(()) };
    let (ca, stranger) = (authority.path("ca.pem"), authority.path("server.pem"));
    let user = "encrypted";

    // Whoever is let in with these is encrypted: the server refuses this user else.
    let taken = [
        ("127.0.0.1", keys.clone()),
        ("127.0.0.1", format!("{keys}?sslmode=prefer")),
        ("127.0.0.1", format!("{keys}?sslmode=require")),
        ("127.0.0.1", format!("{keys}?sslmode=require&sslrootcert={ca}")),
        ("127.0.0.1", format!("{keys}?sslmode=verify-ca&ssl-ca={ca}")),
        ("localhost", format!("{keys}?sslmode=verify-full&sslrootcert={ca}")),
    ];
    for (host, rest) in &taken {
        try_it(user, host, &server, rest).await.map_err(|error| format!("{rest}: {error:?}"))?;
    }
    let refused = [
        ("127.0.0.1", format!("{keys}?sslmode=disable"), "demands"),
        ("127.0.0.1", format!("{keys}?sslmode=verify-full&sslrootcert={ca}"), "verify-ca"),
        ("localhost", format!("{keys}?sslmode=verify-full&sslrootcert={stranger}"), "sslrootcert=FILE"),
        ("127.0.0.1", format!("{keys}?sslmode=verify-ca&sslrootcert={stranger}"), "sslrootcert=FILE"),
        ("127.0.0.1", format!("{keys}?sslmode=require&sslrootcert={stranger}"), "sslrootcert=FILE"),
        ("localhost", format!("{keys}?sslmode=verify-full"), "sslrootcert"),
        ("localhost", format!("{keys}?sslmode=verify-full&sslrootcert=/nowhere.pem"), "/nowhere.pem"),
        (
            "localhost",
            format!("{keys}?sslmode=verify-full&sslrootcert={}", authority.path("server.key")),
            "no PEM certificate",
        ),
        ("127.0.0.1", format!("{keys}?sslmode=require&sslcert={stranger}"), "needs its key"),
    ];
    for (host, rest, words) in &refused {
        let error = try_it(user, host, &server, rest).await.expect_err(rest);
        assert_permanent(&error, &["connecting", host, words]);
    }
    Ok(())
}

#[tokio::test]
async fn the_authority_is_enough_for_a_certificate_without_names() -> TestResult {
    let Some(authority) = Authority::new()? else { return Ok(()) };
    authority.sign("MySQL_Server_Auto_Generated", "")?;
    let Some((server, keys)) = authority.server("MySQL_Server_Auto_Generated").await? else { return Ok(()) };
    let ca = authority.path("ca.pem");
    try_it("encrypted", "localhost", &server, &format!("{keys}?sslmode=verify-ca&sslrootcert={ca}")).await?;
    let full = format!("{keys}?sslmode=verify-full&sslrootcert={ca}");
    assert_permanent(&try_it("encrypted", "localhost", &server, &full).await.expect_err("no name"), &["verify-ca"]);
    Ok(())
}

#[tokio::test]
async fn a_client_shows_its_certificate() -> TestResult {
    let Some(authority) = Authority::new()? else { return Ok(()) };
    authority.sign("server", "subjectAltName=DNS:localhost")?;
    authority.sign("client", "")?;
    let Some((server, keys)) = authority.server("server").await? else { return Ok(()) };
    let base = format!("{keys}?sslmode=verify-ca&sslrootcert={}", authority.path("ca.pem"));
    let shown = format!("{base}&sslcert={}&sslkey={}", authority.path("client.pem"), authority.path("client.key"));
    try_it("certified", "localhost", &server, &shown).await?;
    let error = try_it("certified", "localhost", &server, &base).await.expect_err("none shown");
    assert_permanent(&error, &["connecting", "client certificate"]);

    // Files are read for each connection: a certificate that another authority made since is refused.
    let store = connect(&format!("mysql://certified:{PASSWORD}@localhost:{}/{shown}", server.port())).await?;
    std::fs::write(Path::new(&authority.path("client.key")), "not a key")?;
    store.load(&key("alice", 5)).await?;
    let error = try_it("certified", "localhost", &server, &shown).await.expect_err("no key");
    assert_permanent(&error, &["client.key", "sslkey"]);
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_told() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    try_it(USER, "127.0.0.1", server, &format!("{database}?sslmode=prefer")).await?;
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = try_it(USER, "127.0.0.1", server, &format!("{database}?sslmode={mode}")).await.expect_err(mode);
        assert_permanent(&error, &["connecting", "offers no TLS"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_nobody_has_may_come() -> TestResult {
    let error = connect("mysql://a:hunter2@nowhere.invalid/keys").await.expect_err("no such name");
    assert_transient(&error, &["connecting", "nowhere.invalid"]);
    Ok(())
}
