pub struct InMemoryMetastore;
