//! Tables of PostgreSQL, of every type that they may have.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::PostgresMetastore;
use tokio_postgres::NoTls;

use crate::servers::Postgres;
use crate::stage::{Behind, Stage, TestResult};

mod jsonb {
    crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);
    async fn stage() -> crate::stage::TestResult<Option<crate::stage::Stage>> {
        super::stage("VARCHAR(255) COLLATE \"C\"", "TIMESTAMPTZ", "JSONB", "").await
    }
}
mod text {
    crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);
    async fn stage() -> crate::stage::TestResult<Option<crate::stage::Stage>> {
        super::stage("TEXT", "TIMESTAMP", "TEXT", "").await
    }
}
mod json {
    crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);
    async fn stage() -> crate::stage::TestResult<Option<crate::stage::Stage>> {
        super::stage("VARCHAR(255)", "TIMESTAMP", "JSON", "?prepared_statements=false").await
    }
}
mod varchar {
    crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);
    async fn stage() -> crate::stage::TestResult<Option<crate::stage::Stage>> {
        super::stage("VARCHAR(255)", "TIMESTAMPTZ", "VARCHAR(70000)", "?prepared_statements=false").await
    }
}

async fn stage(id: &str, created: &str, record: &str, options: &str) -> TestResult<Option<Stage>> {
    let Some(server) = Postgres::shared()? else { return Ok(None) };
    let url = server.table(id, created, record)?;
    let store = PostgresMetastore::connect(format!("{url}{options}").parse()?).await?;
    let behind = Some(Box::new(client(&url).await?) as Box<dyn Behind>);
    Ok(Some(Stage { behind, ..Stage::new(Arc::new(store)) }))
}

async fn client(url: &str) -> TestResult<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("SET TIME ZONE 'UTC'").await?;
    Ok(client)
}

#[async_trait]
impl Behind for tokio_postgres::Client {
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        let sql = format!(
            "INSERT INTO encryption_key VALUES ('{}', to_timestamp({created}), '{}')",
            id.replace('\'', "''"),
            text.replace('\'', "''")
        );
        match self.batch_execute(&sql).await {
            // A column of JSON takes no other text.
            Err(error) if error.code().is_some_and(|state| state.code().starts_with("22")) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    async fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let sql = "SELECT key_record::text FROM encryption_key WHERE id = $1 AND created = to_timestamp($2::float8)";
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        Ok(self.query_one(sql, &[&id, &(created as f64)]).await?.try_get(0)?)
    }
}
