//! Connecting, loads and inserts.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::Region;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::{Client, Config};

use super::failures::{CONNECTING, LOADING, NO_REGION, NO_TABLE, STORING, failure};
use super::item::{Item, address, item, key_of, number, read, text};
use super::options::{DynamoDbOptions, is_table};
use super::table::Sight;
use crate::aws::{is_endpoint, surroundings};
use crate::clients::Clients;
use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
use crate::stores::place::{permanent, transient};
use crate::stores::rows::is_buried;
use crate::stores::{Metastore, Severity, StoreOutcome};

/// What is asked of an item. `Created`, which each has, so that one without `KeyRecord` is not taken for none.
pub(super) const ATTRIBUTES: &str = "Id, Created, KeyRecord";
const IS_NEW: &str = "attribute_not_exists(Id)";
const OF_ID: &str = "Id = :id";
const BETWEEN: &str = "Id = :id AND Created BETWEEN :first AND :last";

/// A metastore in a table of Amazon DynamoDB; cloning shares its connections.
///
/// Keys are items as the plugins of other implementations write them, for version 1 and 2 of the AWS SDK alike: those of
/// Go, Java and C# read ours, and theirs are read. `keyward migrate` makes the table.
///
/// Each call is one request, and one more after an insert; all reads are
/// [consistent](https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.ReadConsistency.html). The rights
/// that encrypting needs are `dynamodb:GetItem`, `Query` and `PutItem`; `DescribeTable` lets [`connect`](Self::connect) look
/// for replicas. Needs a tokio runtime.
///
/// A request is sent once: [`RetryPolicy`](crate::RetryPolicy) says how calls are repeated.
///
/// # Global tables
/// A region reads what others have written about a second ago, and of two regions that write the same item at once one wins
/// in the end. Keys are then lost, with what was encrypted under them meanwhile. So each region needs keys of its own, told
/// apart by [`suffix`](DynamoDbOptions::suffix); a replicated table is refused without one. Tables of multi-Region strong
/// consistency need none.
///
/// # Cancel safety
/// A call that is dropped has happened whole or not at all. An insert that is dropped while the id is being shredded may leave
/// a row beside the tombstone, under which nobody encrypts.
///
/// # Security
/// Rows hold wrapped keys only. Credentials come from where the AWS SDK looks for them; the application's own come with
/// [`from_client`](Self::from_client).
///
/// # Examples
/// ```no_run
/// use keyward::stores::DynamoDbMetastore;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = DynamoDbMetastore::connect("dynamodb:EncryptionKey?region=eu-west-1&suffix=true".parse()?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DynamoDbMetastore {
    pub(super) table: Arc<Table>,
}

/// A table, and how it is reached.
pub(super) struct Table {
    clients: Clients<Client>,
    pub(super) options: DynamoDbOptions,
    pub(super) region: String,
    suffix: Option<String>,
    pub(super) place: String,
}

impl DynamoDbMetastore {
    /// Connects, and makes sure that the table can be used.
    ///
    /// Where the credentials may not describe the table, it is not known whether it has replicas; a warning is logged.
    ///
    /// # Errors
    /// [`StoreError::Permanent`] when there is no region or no table, the table cannot hold keys or is replicated and there is
    /// no suffix, or the service refuses, with what to do; [`StoreError::Transient`] when it does not answer.
    pub async fn connect(options: DynamoDbOptions) -> Result<Self, StoreError> {
        let store = Self::connect_for_schema(options).await?;
        store.check().await?;
        Ok(store)
    }

    /// Connects for [`SchemaAdmin`](crate::stores::SchemaAdmin) alone: there may be no table yet. Sends nothing to it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), but for the table.
    pub async fn connect_for_schema(options: DynamoDbOptions) -> Result<Self, StoreError> {
        let found = surroundings(options.region.clone().map(Region::new), options.profile.as_deref()).await;
        let mut config = Config::from(&found)
            .to_builder()
            .retry_config(DynamoDbOptions::retries())
            .timeout_config(options.timeouts());
        // The AWS SDK takes endpoints from its environment and profile too.
        let endpoint = options.endpoint.clone().or_else(|| found.endpoint_url().map(str::to_owned));
        if let Some(endpoint) = &options.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let region = found.region().map(ToString::to_string);
        let config = config.build();
        let clients = Clients::new(move || Client::from_conf(config.clone()));
        Self::new(clients, options, region, endpoint.as_deref())
    }

    /// Uses a client that the application has set up, and makes sure that the table can be used.
    ///
    /// Endpoint, profile and time limits are the client's; the region is too, and the suffix
    /// [`OfRegion`](crate::stores::RegionSuffix::OfRegion) is that. A client that repeats requests itself is to go with
    /// [`RetryPolicy::none`](crate::RetryPolicy::none), or with its retries off.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`StoreError::Permanent`] when the options name a region, an endpoint or a profile.
    pub async fn from_client(client: Client, options: DynamoDbOptions) -> Result<Self, StoreError> {
        if options.region.is_some() || options.endpoint.is_some() || options.profile.is_some() {
            let advice = "leave region, endpoint and profile out of the options, or let them make the client";
            return Err(permanent(CONNECTING, &options.table, advice, "the client has its own"));
        }
        let region = client.config().region().map(ToString::to_string);
        let store = Self::new(Clients::Given(client), options, region, None)?;
        store.check().await?;
        Ok(store)
    }

    fn new(
        clients: Clients<Client>,
        options: DynamoDbOptions,
        region: Option<String>,
        endpoint: Option<&str>,
    ) -> Result<Self, StoreError> {
        let name = &options.table;
        let refused = |advice, why: &str| Err(permanent(CONNECTING, &format!("dynamodb:{name}"), advice, why));
        if !is_table(name) {
            let advice = "3 to 255 letters, digits, `_`, `-` and `.`, or an ARN";
            return Err(permanent(CONNECTING, "dynamodb", advice, "this is not the name of a table"));
        }
        if options.endpoint.as_deref().is_some_and(|endpoint| !is_endpoint(endpoint)) {
            return refused("as http://127.0.0.1:8000, without user and password", "the endpoint is none");
        }
        let Some(region) = region.filter(|region| !region.is_empty()) else {
            return match options.suffix {
                Some(_) => refused(NO_REGION, "keys are to have the suffix of the region, and no region is known"),
                None => refused(NO_REGION, "no region is known"),
            };
        };
        let suffix = options.suffix_in(&region);
        if suffix.as_ref().is_some_and(String::is_empty) {
            return refused("name a suffix, or none", "the region suffix is empty");
        }
        let mut place = format!("dynamodb:{name} in {region}");
        place.extend(endpoint.filter(|endpoint| is_endpoint(endpoint)).map(|endpoint| format!(" at {endpoint}")));
        Ok(Self { table: Arc::new(Table { clients, options, region, suffix, place }) })
    }

    /// Makes sure that the table can be used.
    async fn check(&self) -> Result<(), StoreError> {
        let table = &self.table;
        let refused = |advice: Option<&'static str>, why: String| permanent(CONNECTING, &table.place, advice, why);
        match table.describe(CONNECTING).await? {
            Sight::None => Err(refused(Some(NO_TABLE), "there is no such table".to_owned())),
            Sight::Table(found) if found.is_coming() => {
                Err(transient(CONNECTING, &table.place, "wait until the table is made", "the table is being made"))
            }
            Sight::Table(found) => {
                let broken = found.compare(table).into_iter().find(|found| found.severity == Severity::Broken);
                let advice = "`keyward migrate --store …` says how the table should be";
                broken.map_or(Ok(()), |broken| Err(refused(Some(advice), broken.about)))
            }
            Sight::Hidden(reason) => {
                if table.suffix.is_none() && !table.options.allow_global_table_without_suffix {
                    let place = table.place.as_str();
                    let advice = "allow dynamodb:DescribeTable, or name a region suffix";
                    tracing::warn!(
                        place,
                        reason,
                        advice,
                        "the table may have replicas, and keys have no region suffix"
                    );
                }
                // Whether it is there shows all the same; the key is none.
                let probe = KeyMeta { id: KeyId::new("keyward"), created: 0 };
                table.load(CONNECTING, &probe).await.map(|_| ())
            }
        }
    }
}

impl Table {
    pub(super) fn client(&self) -> Client {
        self.clients.get()
    }

    pub(super) fn name(&self) -> &str {
        &self.options.table
    }

    /// Loads an item as it is.
    pub(super) async fn load(&self, operation: &'static str, key: &KeyMeta) -> Result<Option<Item>, StoreError> {
        let request = self.client().get_item().table_name(self.name()).set_key(Some(address(key)));
        let answer = request.projection_expression(ATTRIBUTES).consistent_read(true).send().await;
        answer.map(|found| found.item).map_err(|error| failure(operation, &self.place, &error))
    }

    /// Prepares to read all items of one id.
    pub(super) fn versions(&self, id: &KeyId) -> QueryFluentBuilder {
        let query = self.client().query().table_name(self.name()).consistent_read(true);
        query
            .projection_expression(ATTRIBUTES)
            .key_condition_expression(OF_ID)
            .expression_attribute_values(":id", text(id.as_str()))
    }

    /// Reads all that a query finds, in as many requests as it takes.
    pub(super) async fn read(
        &self,
        operation: &'static str,
        query: QueryFluentBuilder,
    ) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let page = query.clone().set_exclusive_start_key(start.take()).send().await;
            let page = page.map_err(|error| failure(operation, &self.place, &error))?;
            items.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    /// Looks at what an insert has led to.
    ///
    /// Whoever shreds writes the tombstone first, then reads the rows of the id and deletes all others. A write that was
    /// acknowledged is seen by every consistent read that begins later. So either the tombstone was acknowledged before this
    /// read began, is seen by it, and nobody is told that the row was stored; or it was acknowledged later, and so later than
    /// the row was: then the row is among those that are read and deleted.
    ///
    /// The row itself is read too: in a global table another region's write of the same key may have won meanwhile.
    async fn look(&self, key: &KeyMeta, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let query = self
            .versions(&key.id)
            .key_condition_expression(BETWEEN)
            .expression_attribute_values(":first", number(key.created.min(TOMBSTONE_CREATED)))
            .expression_attribute_values(":last", number(key.created.max(TOMBSTONE_CREATED)));
        let mut stored = None;
        for item in self.read(STORING, query).await? {
            let Some(found) = key_of(&item) else { continue };
            let row = (found.created == key.created || found.created == TOMBSTONE_CREATED).then(|| read(&found, &item));
            let Some(row) = row else { continue };
            if row.as_ref().is_ok_and(|row| is_buried(row) && row != record) {
                self.withdraw(key).await;
                return Ok(StoreOutcome::Duplicate);
            }
            if found.created == key.created {
                stored = Some(row);
            }
        }
        match stored {
            Some(Ok(stored)) if stored == *record => Ok(StoreOutcome::Stored),
            Some(_) => Ok(StoreOutcome::Duplicate),
            None => Err(transient(STORING, &self.place, None, "the row was deleted at once")),
        }
    }

    /// Takes a row back that was inserted after the tombstone.
    async fn withdraw(&self, key: &KeyMeta) {
        // What is there at that time is the tombstone.
        if key.created != TOMBSTONE_CREATED {
            // Without the right to delete it stays, and harms nobody: no record is encrypted under it.
            let _ = self.client().delete_item().table_name(self.name()).set_key(Some(address(key))).send().await;
        }
    }
}

#[async_trait]
impl Metastore for DynamoDbMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.table.load(LOADING, key).await?.map(|item| read(key, &item)).transpose()
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let query = self.table.versions(id).scan_index_forward(false).limit(1);
        let answer = query.send().await.map_err(|error| failure(LOADING, &self.table.place, &error))?;
        let Some(item) = answer.items().first() else { return Ok(None) };
        let Some(key) = key_of(item) else {
            let source = "its attribute Created is no whole number of seconds";
            return Err(StoreError::Corrupt { id: id.to_string(), created: None, source: source.into() });
        };
        read(&key, item).map(Some)
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let (table, key) = (&self.table, KeyMeta { id: id.clone(), created: record.created });
        let request = table.client().put_item().table_name(table.name()).condition_expression(IS_NEW);
        match request.set_item(Some(item(&key, record))).send().await {
            Ok(_) => table.look(&key, record).await,
            Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
                Ok(StoreOutcome::Duplicate)
            }
            Err(error) => Err(failure(STORING, &table.place, &error)),
        }
    }

    fn region_suffix(&self) -> Option<&str> {
        self.table.suffix.as_deref()
    }

    fn kind(&self) -> &'static str {
        "dynamodb"
    }

    fn place(&self) -> &str {
        &self.table.place
    }
}

impl fmt::Debug for DynamoDbMetastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbMetastore").field("place", &self.table.place).finish_non_exhaustive()
    }
}
