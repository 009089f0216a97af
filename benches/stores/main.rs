//! What a metastore costs beside its bare driver, and how fast partitions begin.
//!
//! ```sh
//! cargo bench --bench stores                     # all of it
//! cargo bench --bench stores -- postgres cold    # some of postgres, mysql, sqlite, dynamodb, cold
//! ```
//!
//! The servers are real ones, started for the occasion, and synced to the disk: PostgreSQL, MariaDB, SQLite, and moto, which
//! stands for DynamoDB and is much slower than that. Ours and the drivers take turns in one program and on one runtime, each
//! with connections of its own to the same server, sending the same statements. What counts are the ratios: where others want
//! the machine too, all times are longer.
//!
//! * `side.rs` is what is asked for, and ours; `race.rs` has sides take turns; `table.rs` prints.
//! * `postgres.rs`, `mysql.rs`, `sqlite.rs`, `dynamodb.rs`: the bare drivers.
//! * `cold.rs`: encrypting for partitions that nobody has encrypted for before.

mod cold;
mod dynamodb;
mod mysql;
mod postgres;
mod race;
#[path = "../../tests/servers/mod.rs"]
mod servers;
mod side;
mod sqlite;
mod table;

use tokio::runtime::Builder;

use side::BenchResult;

/// What can be measured, by the names that arguments have.
const PARTS: [&str; 5] = ["postgres", "mysql", "sqlite", "dynamodb", "cold"];

fn main() -> BenchResult {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = arguments.iter().find(|argument| !PARTS.contains(&argument.as_str())) {
        return Err(format!("{unknown} is none of {}", PARTS.join(", ")).into());
    }
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    for part in PARTS {
        if !arguments.is_empty() && !arguments.iter().any(|argument| argument == part) {
            continue;
        }
        match part {
            "postgres" => runtime.block_on(postgres::measure())?,
            "mysql" => runtime.block_on(mysql::measure())?,
            "sqlite" => runtime.block_on(sqlite::measure())?,
            "dynamodb" => runtime.block_on(dynamodb::measure())?,
            _ => runtime.block_on(cold::measure())?,
        }
    }
    Ok(())
}
