//! Connecting as the surroundings of a process have it: regions, credentials, profiles, endpoints.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use keyward::stores::{DynamoDbMetastore, Metastore, SchemaAdmin, StoreError};
use serde_json::json;

use crate::answers::{Answer, Answers, header};
use crate::servers::{DynamoDb, DynamoDbKind, TestResult};
use crate::{chain, key};

/// The address that a process started for it connects to, and what it does then.
const ADDRESS: &str = "KEYWARD_TEST_DYNAMODB_ADDRESS";
const DEED: &str = "KEYWARD_TEST_DYNAMODB_DEED";

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

/// Runs this test program once more, with no surroundings but these, and returns what it says.
fn run(address: &str, deed: &str, surroundings: &[(&str, &str)]) -> TestResult<String> {
    let home = tempfile::tempdir()?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "surroundings::a_process_of_its_own", "--nocapture"])
        .env_clear()
        .envs([("HOME", home.path()), ("TMPDIR", home.path())])
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(surroundings.iter().copied())
        .envs([(ADDRESS, address), (DEED, deed)])
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("hunter2"), "{said}");
    let line = said.lines().find_map(|line| line.split_once("SAID ")).ok_or("it says something")?;
    Ok(line.1.to_owned())
}

/// What such a process does; nothing where it is not one.
#[test]
fn a_process_of_its_own() -> TestResult {
    let (Ok(address), Ok(deed)) = (std::env::var(ADDRESS), std::env::var(DEED)) else { return Ok(()) };
    let options = address.parse()?;
    let said = |error: StoreError| {
        format!("{}: {}", if error.is_transient() { "transient" } else { "permanent" }, chain(&error))
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let first = runtime()?;
    let text = first.block_on(async {
        match deed.as_str() {
            "make" => {
                let store = DynamoDbMetastore::connect_for_schema(options).await?;
                let (one, other) = (store.clone(), store.clone());
                let (one, other) = (tokio::spawn(async move { one.apply().await }), other.apply().await?);
                let mut done = [one.await.expect("it does not panic")?, other].concat();
                done.extend(store.apply().await?);
                let report = store.inspect().await?;
                done.extend(report.differences.into_iter().map(|found| found.about));
                Ok(done.join("; "))
            }
            "schema" => Ok(DynamoDbMetastore::connect_for_schema(options).await?.schema().replace('\n', "; ")),
            _ => {
                let store = DynamoDbMetastore::connect(options).await?;
                store.load(&key("alice", 5)).await?;
                if deed == "move" {
                    // The runtime that connected stands still from here on.
                    let text = std::thread::spawn(move || {
                        let began = Instant::now();
                        let loaded = runtime()?.block_on(store.load(&key("alice", 5)));
                        TestResult::Ok(format!("{} {}", loaded.is_ok(), began.elapsed() < Duration::from_millis(500)))
                    });
                    return Ok(text.join().map_or_else(|_| "panic".to_owned(), |text| format!("{text:?}")));
                }
                Ok(format!("{}, suffix {:?}", store.place(), store.region_suffix()))
            }
        }
    });
    println!("SAID {}", text.unwrap_or_else(said));
    Ok(())
}

#[test]
fn without_region_nothing_starts() -> TestResult {
    let said = run("dynamodb:EncryptionKey", "connect", &KEYS)?;
    assert!(said.starts_with("permanent: connecting to DynamoDB") && said.contains("no region is known"), "{said}");
    let said = run("dynamodb:EncryptionKey?suffix=true", "connect", &KEYS)?;
    assert!(said.starts_with("permanent") && said.contains("suffix of the region"), "{said}");
    Ok(())
}

#[test]
fn without_credentials_nothing_starts() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let address = format!("dynamodb:EncryptionKey?region=us-west-2&endpoint={}", answers.endpoint());
    let said = run(&address, "connect", &[])?;
    assert!(said.starts_with("permanent") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert!(answers.asked().is_empty());
    Ok(())
}

#[test]
fn region_and_endpoint_come_from_the_address_or_from_around() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let endpoint = answers.endpoint();
    let west = [KEYS[0], KEYS[1], ("AWS_REGION", "us-west-2")];
    let address = format!("dynamodb:EncryptionKey?suffix=true&endpoint={endpoint}");
    let said = run(&address, "connect", &west)?;
    assert_eq!(said, format!("dynamodb:EncryptionKey in us-west-2 at {endpoint}, suffix Some(\"us-west-2\")"));
    let said = run(&format!("{address}&region=eu-central-1"), "connect", &west)?;
    assert_eq!(said, format!("dynamodb:EncryptionKey in eu-central-1 at {endpoint}, suffix Some(\"eu-central-1\")"));
    let asked = answers.asked();
    let signature = header(&asked.last().ok_or("it was asked")?.head, "authorization").ok_or("it is signed")?;
    assert!(signature.contains("/eu-central-1/dynamodb/"), "{signature}");
    let around = [west[0], west[1], west[2], ("AWS_ENDPOINT_URL_DYNAMODB", endpoint.as_str())];
    let said = run("dynamodb:EncryptionKey", "connect", &around)?;
    assert!(said.starts_with("dynamodb:EncryptionKey in us-west-2"), "{said}");
    Ok(())
}

#[test]
fn a_profile_has_credentials_and_a_region() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let folder = tempfile::tempdir()?;
    let (config, secrets) = (folder.path().join("config"), folder.path().join("credentials"));
    fs::write(&config, "[profile keys]\nregion = ap-southeast-2\n")?;
    fs::write(&secrets, "[keys]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = hunter2\n")?;
    let (config, secrets) = (config.to_string_lossy(), secrets.to_string_lossy());
    // Those of the environment do not take its place.
    let around = [
        ("AWS_CONFIG_FILE", &*config),
        ("AWS_SHARED_CREDENTIALS_FILE", &*secrets),
        ("AWS_ACCESS_KEY_ID", "AKIAOTHER"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    let address = format!("dynamodb:EncryptionKey?profile=keys&endpoint={}", answers.endpoint());
    let said = run(&address, "connect", &around)?;
    assert!(said.starts_with("dynamodb:EncryptionKey in ap-southeast-2"), "{said}");
    let asked = answers.asked();
    let signature = header(&asked.last().ok_or("it was asked")?.head, "authorization").ok_or("it is signed")?;
    assert!(signature.contains("akiaprofile/") && signature.contains("/ap-southeast-2/dynamodb/"), "{signature}");
    Ok(())
}

#[test]
fn a_wrong_endpoint_says_what_to_look_at() -> TestResult {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let plain = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let no_tls = format!("https://{}", plain.local_addr()?);
    std::thread::spawn(move || {
        for mut stream in plain.incoming().map_while(Result::ok) {
            // The client may be gone.
            let _ = stream.write_all(b"HTTP/1.1 400 speak plainly\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let cases = [
        (format!("http://127.0.0.1:{port}"), "transient", "is the endpoint right"),
        (no_tls, "permanent", "check the certificate"),
        ("http://nowhere.invalid".to_owned(), "transient", "look at the name of the endpoint"),
    ];
    for (endpoint, sort, advice) in cases {
        let said = run(&format!("dynamodb:?region=us-west-2&endpoint={endpoint}"), "connect", &KEYS)?;
        assert!(said.starts_with(sort) && said.contains(advice), "{said}");
    }
    Ok(())
}

#[test]
fn a_store_moves_to_another_runtime() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let address = format!("dynamodb:?region=us-west-2&request_timeout=2&endpoint={}", answers.endpoint());
    assert_eq!(run(&address, "move", &KEYS)?, "Ok(\"true true\")");
    Ok(())
}

#[test]
fn two_at_once_make_one_table() -> TestResult {
    for kind in [DynamoDbKind::Moto, DynamoDbKind::Dynalite] {
        let Some(server) = DynamoDb::shared(kind)? else { continue };
        let address = format!("dynamodb:{}?region=us-west-2&endpoint={}", server.table(), server.endpoint());
        let said = run(&address, "make", &KEYS)?;
        assert_eq!(said.matches("made the table").count(), 1, "{said}");
        let recovery = if kind == DynamoDbKind::Moto { "turned point-in-time recovery on" } else { "do it with: aws" };
        assert!(said.contains(recovery), "{said}");
        assert!(run(&address, "connect", &KEYS)?.starts_with("dynamodb:"));
    }
    Ok(())
}

#[test]
fn the_schema_is_a_command_to_run() -> TestResult {
    let said = run("dynamodb:Keys?region=us-west-2&endpoint=http://127.0.0.1:8000", "schema", &[])?;
    let expected = "aws dynamodb create-table --region us-west-2 --endpoint-url 'http://127.0.0.1:8000' --table-name Keys \
        --attribute-definitions AttributeName=Id,AttributeType=S AttributeName=Created,AttributeType=N";
    assert!(said.starts_with(expected) && said.contains("--billing-mode PAY_PER_REQUEST"), "{said}");
    assert!(said.contains("PointInTimeRecoveryEnabled=true"), "{said}");
    Ok(())
}
