//! Master keys in three regions of AWS KMS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cli_support::{SYSTEM, TestResult, World, created, file_of};
use crate::servers::{AwsProxy, DynamoDb, DynamoDbKind, header};
use crate::stage::{ended, outcomes, rows, text};

const REGIONS: [&str; 3] = ["us-west-2", "us-east-1", "eu-west-1"];

/// Where nobody answers.
const CLOSED: &str = "http://127.0.0.1:1";

/// A folder, and a master key in each region of an AWS KMS.
struct Stage {
    world: World,
    endpoint: String,
    keys: [String; 3],
    store: String,
}

impl Stage {
    fn new() -> TestResult<Option<Self>> {
        let Some(server) = DynamoDb::shared(DynamoDbKind::Moto).map_err(text)? else { return Ok(None) };
        let [a, b, c] = REGIONS.map(|region| create_key(server.port, region));
        let store = "sqlite:keyward.db".to_owned();
        Ok(Some(Self { world: World::new()?, endpoint: server.endpoint(), keys: [a?, b?, c?], store }))
    }

    /// The master keys of some regions, the first preferred.
    fn kms(&self, regions: &[usize], options: &str) -> String {
        let keys: Vec<String> = regions.iter().map(|&at| format!("{}={}", REGIONS[at], self.keys[at])).collect();
        let (keys, preferred) = (keys.join(","), REGIONS[regions[0]]);
        format!("aws:{keys};preferred={preferred};endpoint={};{options}", self.endpoint)
    }

    fn command(&self, kms: &str, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        command.env("KEYWARD_KMS", kms).env("KEYWARD_STORE", &self.store);
        for (name, value) in
            [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_CONFIG_FILE", "none")]
        {
            command.env(name, value);
        }
        command.env("AWS_SHARED_CREDENTIALS_FILE", "none").env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// Runs a command that ends with `code`; returns what it printed and what it complained of.
    fn ends(&self, code: i32, kms: &str, arguments: &[&str], input: &[u8]) -> TestResult<(String, String)> {
        let input = file_of(input)?;
        ended(code, arguments, self.command(kms, arguments).stdin(input).output()?)
    }

    fn says(&self, kms: &str, arguments: &[&str], input: &[u8]) -> TestResult<String> {
        Ok(self.ends(0, kms, arguments, input)?.0)
    }

    /// What `--json` printed, of a command that ends with `code`.
    fn json(&self, code: i32, kms: &str, arguments: &[&str]) -> TestResult<Value> {
        let arguments = [arguments, &["--json"]].concat();
        Ok(serde_json::from_str(&self.ends(code, kms, &arguments, b"")?.0)?)
    }

    fn opens(&self, regions: &[usize], record: &str) -> TestResult {
        let plain = self.says(&self.kms(regions, ""), &["decrypt", "--partition", "alice"], record.as_bytes())?;
        assert_eq!(plain, "tea", "{regions:?}");
        Ok(())
    }
}

/// Has a key made in a region, and returns its ARN.
fn create_key(port: u16, region: &str) -> TestResult<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "POST / HTTP/1.0\r\nhost: localhost\r\nx-amz-target: TrentService.CreateKey\r\n\
         content-type: application/x-amz-json-1.1\r\ncontent-length: 2\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=test/20260101/{region}/kms/aws4_request, SignedHeaders=host, \
         Signature=0\r\n\r\n{{}}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").ok_or("an answer has a body")?.1;
    let body: Value = serde_json::from_str(body)?;
    Ok(body["KeyMetadata"]["Arn"].as_str().ok_or("a key has an ARN")?.to_owned())
}

#[test]
fn every_region_is_tried_and_each_failure_says_what_to_do() -> TestResult {
    let Some(mut stage) = Stage::new()? else { return Ok(()) };
    let said = stage.says(&stage.kms(&[0, 1, 2], ""), &["kms", "check"], b"")?;
    for region in REGIONS {
        for step in ["GenerateDataKey", "Encrypt", "Decrypt"] {
            let is_its = |line: &&str| line.starts_with(region) && line.contains(step) && line.ends_with("ok");
            assert_eq!(said.lines().filter(is_its).count(), 1, "{said}");
        }
    }
    assert!(said.ends_with("System keys can be made and opened.\n"), "{said}");
    assert!(!stage.world.has("keyward.db"), "it needs no store");

    for (least, meaning) in [
        ("all", "2 of 3 work: system keys cannot be made with min_regions = all."),
        ("2", "2 of 3 work: system keys can be made (min_regions = 2)"),
    ] {
        let away = stage.kms(&[0, 1, 2], &format!("min_regions={least};endpoint.eu-west-1={CLOSED}"));
        let (said, complaint) = stage.ends(75, &away, &["kms", "check"], b"")?;
        assert!(said.contains("network (") && said.contains(meaning), "{said}");
        assert!(complaint.contains("1 of 3 places") && complaint.contains("try again"), "{complaint}");
    }
    let away = stage.kms(&[0, 1, 2], "").replace(&stage.endpoint, CLOSED);
    let (said, _) = stage.ends(75, &away, &["kms", "check"], b"")?;
    assert!(said.contains("cannot both be made and opened"), "{said}");

    stage.keys[1] = format!("arn:aws:kms:{}:123456789012:key/11111111-2222-3333-4444-555555555555", REGIONS[1]);
    let wrong = stage.kms(&[0, 1, 2], &format!("endpoint.eu-west-1={CLOSED}"));
    let report = stage.json(69, &wrong, &["kms", "check"])?;
    let place = |at: usize| (&report["places"][at]["place"], &report["places"][at]["works"]);
    assert_eq!(place(0), (&Value::from(REGIONS[0]), &Value::Bool(true)));
    assert_eq!(place(1), (&Value::from(REGIONS[1]), &Value::Bool(false)));
    let failure = &report["places"][1]["steps"][0]["failure"];
    assert_eq!((&failure["kind"], &failure["may_pass"]), (&Value::from("key_not_found"), &Value::Bool(false)));
    assert!(failure["advice"].as_str().is_some_and(|advice| advice.contains("check the ARN")), "{failure}");
    Ok(())
}

#[test]
fn a_region_that_is_added_is_missed_then_repaired_and_then_opens_everything() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let (two, three) = (stage.kms(&[0, 1], ""), stage.kms(&[0, 1, 2], ""));
    let record = stage.says(&two, &["encrypt", "--partition", "alice"], b"tea")?;
    stage.says(&two, &["encrypt", "--partition", "alice", "--service", "other"], b"tea")?;
    // A revoked key decrypts for ever.
    let time = created(record.as_bytes())?;
    let revoke = ["keys", "revoke", "--kind", "system", "--created-before", "2100-01-01", "--execute"];
    assert_eq!(stage.says(&two, &revoke, b"")?.matches("  revoked\n").count(), 2);
    let said = stage.says(&two, &["kms", "audit"], b"")?;
    assert!(said.contains("System keys: 2; 2 good."), "{said}");

    let (said, complaint) = stage.ends(69, &three, &["kms", "audit"], b"")?;
    assert_eq!(said.matches("to be repaired  eu-west-1 cannot open it").count(), 2, "{said}");
    assert!(complaint.contains("`keyward kms repair`"), "{complaint}");
    let third = stage.kms(&[2], "");
    let (_, complaint) = stage.ends(69, &third, &["decrypt", "--partition", "alice"], record.as_bytes())?;
    assert!(complaint.contains("not wrapped") && complaint.contains("keyward kms audit"), "{complaint}");

    let before = rows(&stage.world)?;
    let said = stage.says(&three, &["kms", "repair"], b"")?;
    assert!(said.contains("2 would be repaired") && said.contains("--execute repairs them"), "{said}");
    assert_eq!(rows(&stage.world)?, before, "a dry run changes nothing");

    let report = stage.json(0, &three, &["kms", "repair", "--execute"])?;
    assert_eq!(outcomes(&report), [format!("{SYSTEM} repaired"), "_SK_other_default repaired".to_owned()]);
    assert_eq!(report["keys"][0]["mended"], serde_json::json!([{"kind": "missing", "place": "eu-west-1"}]));
    assert_eq!((&report["executed"], &report["keys"][0]["revoked"]), (&Value::Bool(true), &Value::Bool(true)));
    let repaired = rows(&stage.world)?;
    assert_ne!(repaired, before);
    for command in [&["kms", "audit"][..], &["kms", "repair", "--execute"]] {
        assert!(stage.says(&three, command, b"")?.contains("System keys: 2; 2 good."), "{command:?}");
    }
    assert_eq!(rows(&stage.world)?, repaired, "running it again changes nothing");
    assert!(stage.says(&two, &["keys", "list"], b"")?.contains("revoked"), "it stays revoked");

    // The record from before opens in each region alone, and so does what the third one makes.
    for region in 0..3 {
        stage.opens(&[region], &record)?;
    }
    let new = stage.says(&third, &["encrypt", "--partition", "alice"], b"tea")?;
    assert_ne!(created(new.as_bytes())?, time, "under a new system key");
    stage.opens(&[2], &new)
}

#[test]
fn what_is_wrapped_for_regions_that_are_not_configured_is_told_and_is_no_fault() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    stage.says(&stage.kms(&[0, 1], ""), &["encrypt", "--partition", "alice"], b"tea")?;
    let one = stage.kms(&[0], "");
    let report = stage.json(0, &one, &["kms", "audit"])?;
    let finding = &report["keys"][0]["findings"][0];
    assert_eq!((&finding["kind"], &finding["place"]), (&Value::from("unconfigured"), &Value::from(REGIONS[1])));
    assert!(!report.to_string().contains("arn:aws"), "{report}");
    let before = rows(&stage.world)?;
    assert!(stage.says(&one, &["kms", "repair", "--execute"], b"")?.contains("1 good"));
    assert_eq!(rows(&stage.world)?, before);
    Ok(())
}

#[test]
fn a_region_that_is_away_is_left_out_and_nothing_is_lost() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let record = stage.says(&stage.kms(&[0], ""), &["encrypt", "--partition", "alice"], b"tea")?;
    stage.world.row("_SK_c_d", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;

    // Only the one that is missing is away: the row is left.
    let before = rows(&stage.world)?;
    let away = stage.kms(&[0, 2], &format!("endpoint.eu-west-1={CLOSED}"));
    let (said, complaint) = stage.ends(69, &away, &["kms", "repair", "--execute"], b"")?;
    assert!(said.contains("not repaired") && said.contains("eu-west-1: network ("), "{said}");
    assert!(complaint.contains("run it again"), "{complaint}");
    assert_eq!(rows(&stage.world)?, before);
    stage.world.table()?.execute("DELETE FROM encryption_key WHERE id = '_SK_c_d'", [])?;
    stage.ends(75, &away, &["kms", "repair", "--execute"], b"")?;

    // One of two is away: the other is added.
    let away = stage.kms(&[0, 1, 2], &format!("endpoint.eu-west-1={CLOSED}"));
    let report = stage.json(75, &away, &["kms", "repair", "--execute"])?;
    assert_eq!(outcomes(&report), [format!("{SYSTEM} partly repaired")]);
    let key = &report["keys"][0];
    assert_eq!((&key["mended"][0]["place"], &key["findings"][0]["place"]), (&REGIONS[1].into(), &REGIONS[2].into()));
    assert!(key["fault"].as_str().is_some_and(|fault| fault.contains("eu-west-1")), "{key}");
    stage.opens(&[0], &record)?;
    stage.opens(&[1], &record)?;
    stage.ends(69, &stage.kms(&[2], ""), &["decrypt", "--partition", "alice"], record.as_bytes())?;

    let said = stage.says(&stage.kms(&[0, 1, 2], ""), &["kms", "repair", "--execute"], b"")?;
    assert!(said.contains("1 repaired") && said.contains("mended: eu-west-1 cannot open it"), "{said}");
    stage.opens(&[2], &record)
}

#[test]
fn keys_in_dynamodb_are_repaired_too() -> TestResult {
    let Some(mut stage) = Stage::new()? else { return Ok(()) };
    let Some(server) = DynamoDb::shared(DynamoDbKind::Moto).map_err(text)? else { return Ok(()) };
    stage.store = format!("dynamodb:{}?region=us-west-2&endpoint={}", server.table(), server.endpoint());
    let (one, all) = (stage.kms(&[0], ""), stage.kms(&[0, 1, 2], ""));
    stage.says(&one, &["migrate", "--apply"], b"")?;
    let record = stage.says(&one, &["encrypt", "--partition", "alice"], b"tea")?;
    assert!(stage.says(&all, &["kms", "repair", "--execute"], b"")?.contains("1 repaired"));
    stage.opens(&[2], &record)
}

#[test]
fn while_the_service_is_away_a_command_says_what_it_cannot_do() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let kms = stage.kms(&[0, 1], "");
    let record = stage.says(&kms, &["encrypt", "--partition", "alice"], b"tea")?;
    let away = kms.replace(&stage.endpoint, CLOSED);
    for (command, input) in [("encrypt", b"tea".as_slice()), ("decrypt", record.as_bytes())] {
        let (_, complaint) = stage.ends(75, &away, &[command, "--partition", "alice"], input)?;
        assert!(complaint.contains("us-west-2: network") && complaint.contains("us-east-1: network"), "{complaint}");
        assert!(complaint.contains("no system key could be opened"), "{complaint}");
    }
    Ok(())
}

#[test]
fn a_configuration_file_may_have_a_table_of_regions() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let table = |more: &str| {
        let regions = REGIONS.iter().zip(&stage.keys).map(|(region, key)| format!("{region} = \"{key}\"\n"));
        let (regions, endpoint) = (regions.collect::<String>(), &stage.endpoint);
        format!(
            "service = \"s\"\n[kms.aws]\npreferred = \"us-east-1\"\nendpoint = \"{endpoint}\"\n{more}\n\
             [kms.aws.regions]\n{regions}"
        )
    };
    let with = |text: &str, code: i32, arguments: &[&str]| {
        stage.world.write("keyward.toml", text.as_bytes())?;
        let arguments = [arguments, &["--config", "keyward.toml"]].concat();
        let mut command = stage.command("", &arguments);
        ended(code, &arguments, command.env_remove("KEYWARD_KMS").output()?)
    };
    let (said, _) = with(&table("request_timeout = 5"), 0, &["kms", "check", "--json"])?;
    let report: Value = serde_json::from_str(&said)?;
    assert_eq!((&report["working"], &report["places"][0]["place"]), (&Value::from(3), &Value::from("us-east-1")));
    for (more, part) in [
        ("prefered = \"5ec4e7\"", "line 5: unknown field `prefered`"),
        ("request_timeout = \"5ec4e7\"", "line 5"),
        ("external_id = 6210791", "line 5: expected a string"),
        ("hedge = \"5ec4e7\"", "line 5: `hedge` is none"),
        ("former = [\"arn:5ec4e7\"]", "line 5"),
        ("[kms.other]", "kms.aws"),
    ] {
        let (_, complaint) = with(&table(more), 78, &["kms", "check"])?;
        assert!(complaint.contains(part) && complaint.contains("keyward.toml"), "{more}: {complaint}");
        assert!(!complaint.contains("5ec4e7") && !complaint.contains("6210791"), "{complaint}");
    }
    let (_, complaint) = with("[kms.aws]\nregions = {}\n", 78, &["kms", "check"])?;
    assert!(complaint.contains("no region has a master key"), "{complaint}");
    Ok(())
}

#[test]
fn the_story_is_told_on_aws_kms() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let kms = stage.kms(&[0, 1, 2], "");
    let mut demo = stage.command(&kms, &["demo", "--kms", &kms]);
    let (story, _) = ended(0, &["demo"], demo.env_remove("KEYWARD_STORE").output()?)?;
    assert!(story.contains("a new SQLite store in\n") && story.contains("refused: the record belongs"), "{story}");
    assert!(stage.world.files()?.is_empty(), "{:?}", stage.world.files()?);
    Ok(())
}

/// Endpoints of the environment are endpoints too. Nobody lives at that address.
#[test]
fn data_keys_cross_no_network_unencrypted() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let here = format!("endpoint={};", stage.endpoint);
    let kms = stage.kms(&[0], "").replace(&here, "");
    let ends = |code: i32, kms: &str, variable: &str| {
        let mut command = stage.command(kms, &["kms", "check"]);
        ended(code, &["kms", "check"], command.env(variable, "http://192.0.2.1").output()?)
    };
    for variable in ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"] {
        let (said, _) = ends(69, &kms, variable)?;
        assert!(said.contains("refused (") && said.contains("would cross the network unencrypted"), "{said}");
        assert!(said.contains("plaintext=allow"), "{said}");
    }
    let (_, complaint) = ends(64, &format!("{kms};endpoint=http://192.0.2.1"), "NOBODY")?;
    assert!(complaint.contains("would cross the network unencrypted"), "{complaint}");
    Ok(())
}

#[test]
fn who_has_no_credentials_is_told_where_they_were_looked_for() -> TestResult {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    for (options, words) in [
        ("profile=nobody", "no profile \"nobody\""),
        ("", "no credentials found"),
        ("role=arn:aws:iam::1:role/x", "no credentials found"),
    ] {
        let kms = stage.kms(&[0], options);
        let mut command = stage.command(&kms, &["kms", "check"]);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        let (said, _) = ended(69, &["kms", "check"], command.output()?)?;
        assert!(said.contains("credentials (") && said.contains(words), "{said}");
        assert!(said.contains("give the process AWS credentials"), "{said}");
    }
    Ok(())
}

/// What credentials are taken from, and what is asked of STS for it.
#[test]
fn credentials_come_from_a_role_a_profile_or_a_web_identity() -> TestResult {
    const ROLE: &str = "arn:aws:iam::123456789012:role/keyward";
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let Some(server) = DynamoDb::shared(DynamoDbKind::Moto).map_err(text)? else { return Ok(()) };
    let proxy = AwsProxy::start(server.port).map_err(text)?;
    let profiles =
        format!("[profile app]\nrole_arn = {ROLE}\nsource_profile = base\n[profile base]\nregion = us-west-2\n");
    stage.world.write("config", profiles.as_bytes())?;
    stage.world.write("credentials", b"[base]\naws_access_key_id = BASE\naws_secret_access_key = test\n")?;
    stage.world.write("token", b"header.claims.signature")?;
    let encoded = ROLE.replace(':', "%3A").replace('/', "%2F");
    let by_option = format!("role={ROLE};external_id=app-1");
    let identity = [("AWS_WEB_IDENTITY_TOKEN_FILE", "token"), ("AWS_ROLE_ARN", ROLE)];
    for (options, variables, asked) in [
        (by_option.as_str(), &[][..], &["Action=AssumeRole&", "ExternalId=app-1", "Credential=test/"][..]),
        ("profile=app", &[], &["Action=AssumeRole&", "Credential=BASE/"]),
        ("", &identity, &["Action=AssumeRoleWithWebIdentity", "WebIdentityToken=header.claims.signature"]),
    ] {
        proxy.forget();
        let kms = stage.kms(&[0], options).replace(&stage.endpoint, &proxy.endpoint());
        let mut command = stage.command(&kms, &["kms", "check"]);
        command.env("AWS_ENDPOINT_URL_STS", proxy.endpoint()).envs(variables.iter().copied());
        command.env("AWS_CONFIG_FILE", "config").env("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        if !variables.is_empty() {
            command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        }
        ended(0, &["kms", "check"], command.output()?)?;
        let seen = proxy.seen();
        let (first, others) = seen.split_first().ok_or("nobody was asked")?;
        let question = format!("{}\n{}", first.head, String::from_utf8_lossy(&first.body));
        for words in asked.iter().copied().chain([encoded.as_str()]) {
            assert!(question.contains(words), "{options}: {words}: {question}");
        }
        let operations: Vec<&str> = others.iter().map(|exchange| exchange.operation.as_str()).collect();
        assert_eq!(operations, ["GenerateDataKey", "Decrypt"], "one region needs no more");
        for exchange in others {
            let signature = header(&exchange.head, "authorization").ok_or("a request without a signature")?;
            assert!(signature.contains("Credential=ASIA"), "{options}: {signature}");
            assert!(header(&exchange.head, "x-amz-security-token").is_some(), "{options}");
        }
    }
    Ok(())
}
