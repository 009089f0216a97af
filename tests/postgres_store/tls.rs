//! Certificates: of servers, authorities and clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use keyward::stores::{StoreError, StoreOutcome};
use tempfile::TempDir;

use crate::stage::{
    ID, NO_SECRET, NOON, Postgres, PostgresSetup, TestResult, connect, eventually, refused, says, store, user,
};

/// A server of the name `localhost` that offers TLS, with what clients need.
struct World {
    server: Postgres,
    folder: TempDir,
    /// The address of a table, with the name `localhost`.
    url: String,
}

impl World {
    fn shared() -> TestResult<Option<&'static Self>> {
        static SHARED: OnceLock<Result<Option<World>, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start().map_err(|error| error.to_string()));
        Ok(shared.as_ref().map_err(String::clone)?.as_ref())
    }

    fn start() -> TestResult<Option<Self>> {
        if crate::servers::lacks("postgresql") {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        for name in ["ca", "stranger"] {
            authority(folder.path(), name)?;
        }
        certificate(folder.path(), "ca", "server", "localhost", "DNS:localhost", 3650)?;
        // It ended the day before it began.
        certificate(folder.path(), "ca", "old", "localhost", "DNS:localhost", -1)?;
        certificate(folder.path(), "ca", "client", "alice", "DNS:alice", 3650)?;
        certificate(folder.path(), "stranger", "impostor", "alice", "DNS:alice", 3650)?;
        fs::write(
            at("pg_hba.conf"),
            "local all all trust\nhostssl all alice 127.0.0.1/32 cert\n\
             hostssl all bob 127.0.0.1/32 trust clientcert=verify-full\nhost all all 127.0.0.1/32 trust\n",
        )?;
        let lines =
            ["ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl_ca_file = 'ca.crt'"];
        let names = ["server.crt", "server.key", "old.crt", "old.key", "ca.crt", "pg_hba.conf"];
        let setup = PostgresSetup {
            lines: lines.map(str::to_owned).to_vec(),
            files: names.map(|name| (at(name), name)).to_vec(),
            ..PostgresSetup::default()
        };
        let Some(server) = Postgres::start(&setup)? else { return Ok(None) };
        let url = server.new_table()?.replace("127.0.0.1", "localhost");
        for name in ["alice", "bob"] {
            server.sql(
                "postgres",
                &format!("CREATE ROLE {name} LOGIN SUPERUSER; ALTER ROLE {name} SET search_path = {}", user(&url)),
            )?;
        }
        Ok(Some(Self { server, folder, url }))
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The address with options, and with the authority of the server.
    fn trusting(&self, options: &str) -> String {
        format!("{}?sslrootcert={}&{options}", self.url, self.file("ca.crt"))
    }

    /// Whether the connections of a store are encrypted, by the name that it gives them.
    fn is_encrypted(&self, application: &str) -> TestResult<String> {
        let asked = format!(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = '{application}'"
        );
        Ok(self.server.sql("postgres", &asked)?.trim().to_owned())
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

fn authority(folder: &Path, name: &str) -> TestResult {
    let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
    let mut arguments = vec!["req", "-x509", "-nodes", "-days", "3650"];
    arguments.extend(NEW_KEY);
    arguments.extend(["-keyout", &key, "-out", &certificate, "-subj", &subject]);
    openssl(folder, &arguments)
}

/// Makes `NAME.crt` and `NAME.key`, signed by an authority.
fn certificate(folder: &Path, authority: &str, name: &str, subject: &str, others: &str, days: i32) -> TestResult {
    let [key, request, certificate, extensions] = ["key", "csr", "crt", "ext"].map(|end| format!("{name}.{end}"));
    let mut arguments = vec!["req", "-nodes"];
    let subject = format!("/CN={subject}");
    arguments.extend(NEW_KEY);
    arguments.extend(["-keyout", &key, "-out", &request, "-subj", &subject]);
    openssl(folder, &arguments)?;
    fs::write(folder.join(&extensions), format!("basicConstraints=CA:FALSE\nsubjectAltName={others}\n"))?;
    let [ca, ca_key] = ["crt", "key"].map(|end| format!("{authority}.{end}"));
    let days = days.to_string();
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", &days];
    openssl(folder, &[&sign[..], &["-extfile", &extensions, "-out", &certificate]].concat())
}

#[tokio::test]
async fn each_mode_encrypts_as_it_says() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    for (number, (mode, encrypted)) in
        (0..).zip([("disable", "f"), ("prefer", "t"), ("require", "t"), ("verify-ca", "t"), ("verify-full", "t")])
    {
        // Without an authority, `require` takes any certificate.
        let url = match mode {
            "verify-ca" | "verify-full" => world.trusting(&format!("sslmode={mode}")),
            _ => format!("{}?sslmode={mode}", world.url),
        };
        let opened = connect(&format!("{url}&application_name={mode}")).await?;
        assert_eq!(store(&opened, ID, NOON + number * 60).await?, StoreOutcome::Stored);
        assert_eq!(world.is_encrypted(mode)?, encrypted, "{mode}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_unless_names_are_not_checked() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let url = world.trusting("sslmode=verify-full").replace("localhost", "127.0.0.1");
    let error = refused(&url).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    let place = world.url.replace("localhost", "127.0.0.1");
    let advice = "name the host as its certificate does, or say sslmode=verify-ca";
    says(&error, NO_SECRET, &[&place, "connecting to Postgres", advice]);
    connect(&url.replace("verify-full", "verify-ca")).await?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let stranger = format!("{}?sslrootcert={}", world.url, world.file("stranger.crt"));
    // `require` with an authority checks it.
    for url in ["verify-full", "verify-ca", "require"].map(|mode| format!("{stranger}&sslmode={mode}")) {
        let error = refused(&url).await?;
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&world.url, "UnknownIssuer", "sslrootcert=FILE"]);
    }
    // The system does not know it either.
    for mode in ["verify-full", "verify-ca"] {
        let error = refused(&format!("{}?sslmode={mode}", world.url)).await?;
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&world.url, "sslrootcert"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_the_server_demands_one() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let shows = |name: &str| {
        let (certificate, key) = (world.file(&format!("{name}.crt")), world.file(&format!("{name}.key")));
        world.trusting(&format!("sslmode=verify-full&sslcert={certificate}&sslkey={key}"))
    };
    let as_user = |name: &str, url: &str| url.replacen(user(&world.url), name, 1);
    connect(&as_user("alice", &shows("client"))).await?;

    for name in ["alice", "bob"] {
        let url = as_user(name, &world.trusting("sslmode=verify-full"));
        let error = refused(&url).await?;
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[name, "28000", "valid client certificate", "what pg_hba.conf lets in"]);
    }
    // It names somebody else.
    let error = refused(&as_user("bob", &shows("client"))).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &["bob", "28000", "what pg_hba.conf lets in"]);
    // The server does not trust who signed it.
    let error = refused(&as_user("alice", &shows("impostor"))).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &["alice", "does it want a client certificate?"]);
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() -> TestResult {
    let Some(world) = World::shared()? else { return Ok(()) };
    let empty = PathBuf::from(world.file("empty.crt"));
    fs::write(&empty, "")?;
    let (missing, client, key) = (world.file("missing"), world.file("client.crt"), world.file("client.key"));
    for (options, word) in [
        (format!("sslmode=verify-full&sslrootcert={missing}"), missing.as_str()),
        (format!("sslmode=verify-full&sslrootcert={}", empty.display()), "empty.crt holds no certificate"),
        (format!("sslmode=verify-full&sslrootcert={key}"), "client.key holds no certificate"),
        (format!("sslmode=require&sslcert={client}"), "sslcert and sslkey"),
        (format!("sslmode=require&sslkey={key}"), "sslcert and sslkey"),
        (format!("sslmode=require&sslcert={client}&sslkey={missing}"), missing.as_str()),
        (format!("sslmode=require&sslcert={client}&sslkey={client}"), "client.crt"),
    ] {
        let error = refused(&format!("{}?{options}", world.url)).await?;
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&world.url, word, "check the TLS options of the store"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_wanted() -> TestResult {
    let (Some(world), Some(server)) = (World::shared()?, Postgres::shared()?) else { return Ok(()) };
    let url = server.new_table()?;
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refused(&format!("{url}?sslmode={mode}&sslrootcert={}", world.file("ca.crt"))).await?;
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&url, "the server offers no TLS: turn it on there"]);
    }
    for mode in ["disable", "prefer"] {
        connect(&format!("{url}?sslmode={mode}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused() -> TestResult {
    let Some(world) = World::start()? else { return Ok(()) };
    for (name, file) in [("ssl_cert_file", "old.crt"), ("ssl_key_file", "old.key")] {
        world.server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{file}'"))?;
    }
    world.server.sql("postgres", "SELECT pg_reload_conf()")?;
    for mode in ["verify-full", "verify-ca"] {
        let url = world.trusting(&format!("sslmode={mode}"));
        eventually("the other certificate is shown", || async { connect(&url).await.is_err() }).await?;
        let error = refused(&url).await?;
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&world.url, "renew the server's certificate, or set the clock"]);
    }
    // Who checks nothing, sees nothing.
    connect(&format!("{}?sslmode=require", world.url)).await?;
    Ok(())
}
