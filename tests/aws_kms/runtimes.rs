//! Whose runtime it is: any that tokio has, one after the other, and one beside the other.
//!
//! Clients of the library's own take credentials from the environment, which is a process's: that part runs in a child, this
//! test program again with the one ignored test that is named for it.

use std::process::Command;
use std::sync::mpsc;

use keyward::kms::{AwsKms, AwsKmsOptions, KeyManagementService, KmsAdmin};
use secrecy::ExposeSecret;
use tokio::runtime::{Builder, Runtime};

use crate::kms_support::{ORDER, SECRET, Stage, TestResult, Wrapped, text, wrap};

/// Tells the child where its regions are, in the words of an address.
const ADDRESS: &str = "KEYWARD_TEST_AWS_KMS";

async fn a_day_in_the_life(kms: &AwsKms) -> TestResult {
    let wrapped = wrap(kms).await?;
    assert_eq!(kms.decrypt_key(&wrapped.outcome?).await?.expose_secret(), wrapped.key);
    Ok(())
}

fn current_thread() -> TestResult<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

#[test]
fn it_works_on_one_thread_and_on_a_runtime_after_another() -> TestResult {
    let first = current_thread()?;
    let Some(stage) = first.block_on(Stage::new(&ORDER))? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    first.block_on(a_day_in_the_life(&kms))?;
    drop(first);
    current_thread()?.block_on(a_day_in_the_life(&kms))?;
    Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(a_day_in_the_life(&kms))
}

#[test]
fn it_works_inside_an_actix_system_and_its_arbiters() -> TestResult {
    let system = actix::System::new();
    system.block_on(async {
        let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
        let kms = stage.kms(|_| {})?;
        a_day_in_the_life(&kms).await?;
        let arbiter = actix::Arbiter::new();
        let (told, tells) = tokio::sync::oneshot::channel();
        let spawned = arbiter.spawn(async move {
            // Nobody may be waiting any more.
            let _ = told.send(a_day_in_the_life(&kms).await);
        });
        assert!(spawned, "the arbiter is running");
        tells.await??;
        arbiter.stop();
        arbiter.join().map_err(|_| "the arbiter panicked")?;
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_librarys_own_serve_several_runtimes() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let map: Vec<String> = stage.places.iter().map(|place| format!("{}={}", place.name, place.arn)).collect();
    let mut address = format!("aws:{};preferred={}", map.join(","), ORDER[0]);
    for place in &stage.places {
        address.push_str(&format!(";endpoint.{}={}", place.name, place.proxy.endpoint()));
    }
    let said =
        child("child_on_several_runtimes", &address, &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", SECRET)])?;
    assert!(said.contains("1 passed"), "{said}");
    assert!(stage.places.iter().all(|place| place.proxy.count("Decrypt") > 0 || place.name != ORDER[0]));
    // And without credentials it is said what to do, at the first request.
    let said = child("child_without_credentials", &address, &[])?;
    assert!(said.contains("1 passed"), "{said}");
    Ok(())
}

/// Runs one of the tests below in a process that finds no other credentials than these.
fn child(test: &str, address: &str, environment: &[(&str, &str)]) -> TestResult<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "--ignored", &format!("runtimes::{test}")])
        .env(ADDRESS, address)
        .env("AWS_CONFIG_FILE", "none")
        .env("AWS_SHARED_CREDENTIALS_FILE", "none")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_ENDPOINT_URL")
        .env_remove("AWS_ENDPOINT_URL_KMS")
        .envs(environment.iter().copied())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said.into()) }
}

fn options() -> TestResult<AwsKmsOptions> {
    Ok(std::env::var(ADDRESS).map_err(|_| "this is run by another test, as its child")?.parse()?)
}

#[test]
#[ignore = "a child of clients_of_the_librarys_own_serve_several_runtimes, which runs it"]
fn child_on_several_runtimes() -> TestResult {
    let still = current_thread()?;
    let (kms, wrapped) = still.block_on(async {
        let kms = AwsKms::connect(options()?).await?;
        a_day_in_the_life(&kms).await?;
        let Wrapped { key, outcome } = wrap(&kms).await?;
        TestResult::Ok((kms, (key, outcome?)))
    })?;
    // That runtime stands still from here on, with its connections open, and another thread's is gone after its work.
    let (told, tells) = mpsc::channel();
    std::thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            let work = || current_thread()?.block_on(a_day_in_the_life(&kms));
            told.send(work().map_err(|error| error.to_string()))
        });
        Ok(tells.recv()??)
    })?;
    let busy = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let checks = busy.block_on(async {
        assert_eq!(kms.decrypt_key(&wrapped.1).await?.expose_secret(), wrapped.0);
        TestResult::Ok(kms.check().await)
    })?;
    assert!(checks.iter().all(keyward::kms::PlaceCheck::is_good), "{checks:?}");
    still.block_on(a_day_in_the_life(&kms))
}

#[test]
#[ignore = "a child of clients_of_the_librarys_own_serve_several_runtimes, which runs it"]
fn child_without_credentials() -> TestResult {
    current_thread()?.block_on(async {
        let kms = AwsKms::connect(options()?).await?;
        let failed = wrap(&kms).await?.outcome.expect_err("there are no credentials");
        let text = text(&failed);
        assert!(text.contains("credentials (") && text.contains("give the process AWS credentials"), "{text}");
        Ok(())
    })
}
