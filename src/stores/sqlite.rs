pub struct SqliteMetastore;
