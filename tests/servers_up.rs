//! The servers of the tests, and the proxy in front of them, do what the tests rely on.

#[path = "servers/mod.rs"]
mod servers;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use servers::{
    DynamoDb, DynamoDbKind, Fault, MariaDb, MariaDbSetup, OpenBao, OpenBaoSetup, Postgres, PostgresSetup, Proxy, Redis,
    TestResult,
};

#[test]
fn postgres_keeps_its_rows_when_it_is_killed() -> TestResult {
    let setup = PostgresSetup { timezone: Some("America/Phoenix"), fsync: true, ..PostgresSetup::default() };
    let Some(server) = Postgres::start(&setup)? else { return Ok(()) };
    let database = server.database("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")?;
    assert_eq!(server.sql(&database, "SHOW timezone")?.trim(), "America/Phoenix");
    server.keeper.kill()?;
    assert!(server.sql(&database, "SELECT n FROM t").is_err());
    server.start_again()?;
    assert_eq!(server.sql(&database, "SELECT n FROM t")?.trim(), "7");
    Ok(())
}

#[test]
fn mariadb_answers_in_its_time_zone() -> TestResult {
    let setup = MariaDbSetup { time_zone: "-07:00", sql_mode: "", ..MariaDbSetup::default() };
    let Some(server) = MariaDb::start(&setup)? else { return Ok(()) };
    let database = server.database("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")?;
    assert_eq!(server.sql(&database, "SELECT n, @@time_zone FROM t")?.trim(), "7\t-07:00");
    Ok(())
}

#[test]
fn what_speaks_dynamodb_answers() -> TestResult {
    for kind in [DynamoDbKind::Moto, DynamoDbKind::Dynalite] {
        let Some(server) = DynamoDb::shared(kind)? else { continue };
        assert_ne!(server.table(), server.table());
    }
    Ok(())
}

#[test]
fn openbao_is_sealed_and_unsealed_and_writes_what_it_is_asked() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default())? else { return Ok(()) };
    let key = server.new_key()?;
    server.seal()?;
    assert!(server.new_key().is_err());
    server.unseal()?;
    assert_eq!(server.asked(&format!("transit/keys/{key}"))?, 1);
    Ok(())
}

#[test]
fn redis_keeps_what_it_confirmed() -> TestResult {
    let Some(server) = Redis::start()? else { return Ok(()) };
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    stream.write_all(b"SET a b\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"+OK\r\n");
    server.keeper.kill()?;
    Ok(())
}

/// The test program runs once more as a program that starts a server and is killed.
#[test]
fn a_server_ends_with_the_program_that_started_it() -> TestResult {
    const CHILD: &str = "KEYWARD_SERVERS_UP_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let server = Redis::start()?.ok_or("it was there a moment ago")?;
        println!("folder {}", server.keeper.path().display());
        loop {
            std::thread::park();
        }
    }
    if servers::lacks("redis") {
        return Ok(());
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_server_ends_with_the_program_that_started_it", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut text = String::new();
    let mut output = child.stdout.take().ok_or("its output is piped")?;
    while !text.contains("folder ") || !text.ends_with('\n') {
        let mut bytes = [0; 256];
        let count = output.read(&mut bytes)?;
        assert_ne!(count, 0, "the child ended: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let folder = text.lines().find_map(|line| line.split_once("folder ")).ok_or("no folder")?.1.to_owned();
    assert!(std::path::Path::new(&folder).exists());
    child.kill()?;
    child.wait()?;
    let began = Instant::now();
    while std::path::Path::new(&folder).exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "{folder} is still there");
        servers::nap();
    }
    Ok(())
}

/// A server that answers each byte with the byte.
fn echo() -> TestResult<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0; 1];
                while matches!(stream.read(&mut byte), Ok(1)) {
                    if stream.write_all(&byte).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(port)
}

fn connect(proxy: &Proxy) -> TestResult<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    stream.write_all(&[byte])?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[test]
fn the_proxy_passes_on_refuses_delays_and_goes_silent() -> TestResult {
    use std::io::ErrorKind;
    let proxy = Proxy::start(echo()?)?;
    let mut stream = connect(&proxy)?;
    assert_eq!(ask(&mut stream, 7)?, 7);
    proxy.set(Fault::Delay(Duration::from_millis(60)));
    let began = Instant::now();
    assert_eq!(ask(&mut stream, 8)?, 8);
    assert!(began.elapsed() >= Duration::from_millis(120), "there and back");
    proxy.set(Fault::HalfOpen);
    let silent = ask(&mut stream, 9).expect_err("nobody answers").kind();
    assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
    proxy.set(Fault::Refuse);
    assert!(ask(&mut connect(&proxy)?, 1).is_err());
    proxy.set(Fault::None);
    let mut stream = connect(&proxy)?;
    assert_eq!(ask(&mut stream, 3)?, 3);
    proxy.cut_all();
    let cut = ask(&mut stream, 4).or_else(|_| ask(&mut stream, 4)).expect_err("cut").kind();
    assert!(matches!(cut, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof), "{cut}");
    assert_eq!(proxy.connections(), 3);
    Ok(())
}

#[test]
fn the_proxy_cuts_before_or_after_the_server_has_seen_a_request() -> TestResult {
    // A server that counts what it has seen.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let (seen, sees) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0; 1];
            while matches!(stream.read(&mut byte), Ok(1)) {
                let _ = (seen.send(byte[0]), stream.write_all(&byte));
            }
        }
    });
    let proxy = Proxy::start(port)?;
    proxy.cut_before(1, |request| request.contains(&5));
    let mut stream = connect(&proxy)?;
    assert_eq!(ask(&mut stream, 4)?, 4);
    assert!(ask(&mut stream, 5).is_err());
    assert_eq!(ask(&mut connect(&proxy)?, 5)?, 5, "only once");
    proxy.cut_after(1, |request| request.contains(&6));
    assert!(ask(&mut connect(&proxy)?, 6).is_err());
    assert_eq!(proxy.cuts(), 2);
    assert_eq!(sees.try_iter().collect::<Vec<u8>>(), [4, 5, 6]);
    Ok(())
}
