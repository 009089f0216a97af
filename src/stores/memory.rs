/// x
pub struct InMemoryMetastore;
