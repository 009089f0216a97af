//! How a store's table should be, and how it is.

use async_trait::async_trait;

use crate::error::StoreError;

/// What whoever sets up a store needs: the table's definition, and a look at the table that is there.
#[async_trait]
pub trait SchemaAdmin: Send + Sync + 'static {
    /// Returns the statements that make a new table, or a description in the store's own language.
    fn schema(&self) -> String;

    /// Looks at the table, changing nothing.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be looked at; one that does not exist is no error.
    async fn inspect(&self) -> Result<TableReport, StoreError>;

    /// Makes the table unless it exists and makes the changes that [`inspect`](Self::inspect) calls safe; returns what was
    /// done, one line each.
    ///
    /// # Errors
    /// [`StoreError`]; what was done before it stays done, and calling again goes on.
    async fn apply(&self) -> Result<Vec<String>, StoreError>;
}

/// What was found where the table should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableReport {
    /// Whether there is a table.
    pub exists: bool,
    /// How the table differs from the [`schema`](SchemaAdmin::schema); empty when there is none.
    pub differences: Vec<Difference>,
    /// What else is to be known, about the server: one line each.
    pub facts: Vec<String>,
}

impl TableReport {
    /// Returns the gravest of the differences.
    #[must_use]
    pub fn severity(&self) -> Option<Severity> {
        self.differences.iter().map(|difference| difference.severity).max()
    }
}

/// One way in which a table is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs, and whether and why that matters.
    pub about: String,
    /// How much.
    pub severity: Severity,
    /// What to do about it, where there is something.
    pub change: Option<Change>,
}

/// What makes a table as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// A statement, or what to do in words.
    pub statement: String,
    /// Whether [`SchemaAdmin::apply`] does it: it takes little time, locks nobody out and loses nothing.
    pub is_safe: bool,
}

/// How much a difference matters, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works all the same.
    Harmless,
    /// It works until something else goes wrong.
    Risky,
    /// It does not work.
    Broken,
}
