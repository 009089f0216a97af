//! Servers that do not answer, and something else that does.

use std::time::{Duration, Instant};

use keyward::kms::{KeyManagementService, KmsFailureKind, VaultKms, VaultOptions};

use crate::stage::{
    Fault, HttpAnswer, HttpServer, OpenBao, OpenBaoSetup, Proxy, ROOT, TestResult, failure, options, says, service,
    works, wrapped,
};

/// Waits as little as these stories need.
fn hasty(url: &str, key: &str) -> TestResult<VaultOptions> {
    let mut options = options(url, key, ROOT)?;
    options.connect_timeout = Duration::from_millis(300);
    options.request_timeout = Duration::from_millis(300);
    Ok(options)
}

#[tokio::test]
async fn a_server_is_sealed_and_unsealed_under_use() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default())? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    let before = works(&kms).await?;
    server.seal()?;
    let failed = failure(kms.decrypt_key(&before).await)?;
    says(&failed, KmsFailureKind::Unavailable, &[&server.url(), "503", "sealed", "unseal it"], &[]);
    let newcomer = failure(VaultKms::connect(options(&server.url(), &key, ROOT)?).await)?;
    says(&newcomer, KmsFailureKind::Unavailable, &["unseal it"], &[]);
    server.unseal()?;
    kms.decrypt_key(&before).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_gone_silent_or_cut_off_is_told_in_time_and_comes_back() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let proxy = Proxy::start(server.port)?;
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let kms = std::sync::Arc::new(VaultKms::new(hasty(&url, &key)?)?);
    let before = works(&kms).await?;
    let cases = [
        (Fault::HalfOpen, KmsFailureKind::Timeout, "no answer within 600ms"),
        (Fault::Delay(Duration::from_secs(5)), KmsFailureKind::Timeout, "no answer within 600ms"),
        (Fault::Refuse, KmsFailureKind::Network, "check that the server runs"),
    ];
    for (fault, kind, word) in cases {
        proxy.set(fault);
        if fault == Fault::Refuse {
            proxy.cut_all();
        }
        let began = Instant::now();
        let failed = failure(kms.decrypt_key(&before).await)?;
        assert!(began.elapsed() < Duration::from_secs(2), "{fault:?} took {:?}", began.elapsed());
        says(&failed, kind, &[&url, word], &[]);
        assert!(failed.kind.is_transient(), "{fault:?}: {failed}");
        proxy.set(Fault::None);
        kms.decrypt_key(&before).await?;
    }
    proxy.cut_after(1, |request| request.windows(8).any(|part| part == b"/decrypt"));
    says(&failure(kms.decrypt_key(&before).await)?, KmsFailureKind::Network, &[&url], &[]);
    assert_eq!(proxy.cuts(), 1, "a request is sent once");
    kms.decrypt_key(&before).await?;
    Ok(())
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_and_a_name_that_nobody_has_are_told() -> TestResult {
    for (url, word) in
        [("http://127.0.0.1:1", "refused"), ("https://nobody.invalid:8200", "check that the server runs")]
    {
        let kms = service(url, "key", "s.5ec4e7")?;
        says(&failure(kms.decrypt_key(b"vault:v1:AAAA").await)?, KmsFailureKind::Network, &[url, word], &["5ec4e7"]);
    }
    Ok(())
}

#[tokio::test]
async fn something_else_than_vault_is_told_by_its_answers() -> TestResult {
    let answers = [
        (
            "200 OK\r\ncontent-type: text/html",
            "<html>log in</html>",
            KmsFailureKind::Refused,
            "something else than Vault",
        ),
        ("200 OK", "{}", KmsFailureKind::Refused, "something else than Vault"),
        ("401 Unauthorized", "<html>", KmsFailureKind::Refused, "something else than Vault"),
        ("403 Forbidden", "<html>", KmsFailureKind::Refused, "something else than Vault"),
        ("404 Not Found", "not here", KmsFailureKind::Refused, "something else than Vault"),
        ("502 Bad Gateway", "<html>", KmsFailureKind::Unavailable, "something else than Vault"),
        ("302 Found\r\nlocation: http://127.0.0.1:1/", "", KmsFailureKind::Refused, "something else than Vault"),
        ("307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/", "", KmsFailureKind::Unavailable, "active server"),
    ];
    for (head, body, kind, word) in answers {
        let server = HttpServer::start(move |_| HttpAnswer { head: head.to_owned(), body: body.to_owned() })?;
        let kms = service(&server.url(), "key", "s.5ec4e7")?;
        says(&failure(kms.decrypt_key(b"vault:v1:AAAA").await)?, kind, &[&server.url(), word], &["5ec4e7", "log in"]);
    }
    let server = HttpServer::start(|_| HttpAnswer { head: "200 OK".to_owned(), body: "x".repeat(2 << 20) })?;
    let failed = failure(service(&server.url(), "key", ROOT)?.decrypt_key(b"vault:v1:AAAA").await)?;
    says(&failed, KmsFailureKind::Refused, &["more than a megabyte"], &[]);
    Ok(())
}

#[test]
fn a_service_works_on_every_runtime_also_while_another_stands_still() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let first = runtime()?;
    let before = first.block_on(wrapped(&kms))?;
    // A call on the first that nobody drives any more.
    let mut stuck = Box::pin(kms.decrypt_key(&before));
    first.block_on(async {
        assert!(
            std::future::poll_fn(|context| std::task::Poll::Ready(stuck.as_mut().poll(context))).await.is_pending()
        );
    });
    for _ in 0..3 {
        runtime()?.block_on(kms.decrypt_key(&before))?;
    }
    first.block_on(stuck)?;

    // One that was about to log in.
    let kms = VaultKms::new(hasty(&server.url(), &key)?)?;
    let mut stuck = Box::pin(kms.decrypt_key(&before));
    first.block_on(async {
        assert!(
            std::future::poll_fn(|context| std::task::Poll::Ready(stuck.as_mut().poll(context))).await.is_pending()
        );
    });
    let began = Instant::now();
    runtime()?.block_on(kms.decrypt_key(&before))?;
    assert!(began.elapsed() >= Duration::from_millis(600), "it waited for the login that nobody drives");
    drop(stuck);
    Ok(())
}
