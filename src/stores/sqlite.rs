/// x
pub struct SqliteMetastore;
