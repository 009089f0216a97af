//! `keyward migrate`

use keyward::stores::{Difference, SchemaAdmin, Severity, TableReport};
use serde::Serialize;

use super::config::Config;
use super::error::Failure;
use super::open::{block_on, open_schema};
use super::options::Migrate;
use super::output::print;
use super::table::printable;

/// Prints how the table should be and how it is, after making it so where that is asked for.
///
/// # Errors
/// [`Failure`]; [`Failure::BrokenTable`] after everything was printed.
pub(super) fn run(config: &Config, options: &Migrate) -> Result<(), Failure> {
    let look = block_on(async {
        let store = open_schema(&config.store).await?;
        let applied = if options.apply { Some(store.apply().await.map_err(Failure::Migrate)?) } else { None };
        let table = store.inspect().await.map_err(Failure::Inspect)?;
        Ok(Look { store: config.store.to_string(), schema: schema(&*store), applied, table })
    })?;
    print(&if options.json { look.to_json() } else { look.to_text() })?;
    if look.is_broken() { Err(Failure::BrokenTable) } else { Ok(()) }
}

fn schema(store: &dyn SchemaAdmin) -> String {
    store.schema().trim_end().to_owned()
}

/// What there is to tell.
struct Look {
    store: String,
    schema: String,
    /// What was changed, where changes were asked for.
    applied: Option<Vec<String>>,
    table: TableReport,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    store: &'a str,
    exists: bool,
    usable: bool,
    facts: &'a [String],
    schema: &'a str,
    differences: Vec<Entry<'a>>,
    /// What was done, when `--apply` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<&'a [String]>,
}

#[derive(Serialize)]
struct Entry<'a> {
    severity: &'static str,
    about: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'a str>,
    /// Whether `--apply` makes the change.
    applies: bool,
}

impl Look {
    fn is_broken(&self) -> bool {
        self.table.severity() == Some(Severity::Broken)
    }

    fn to_json(&self) -> String {
        let report = Report {
            store: &self.store,
            exists: self.table.exists,
            usable: self.table.exists && !self.is_broken(),
            facts: &self.table.facts,
            schema: &self.schema,
            differences: self.sorted().map(Entry::new).collect(),
            applied: self.applied.as_deref(),
        };
        // Text, numbers and lists of them always have a JSON form.
        serde_json::to_string(&report).unwrap_or_default() + "\n"
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.store);
        for fact in &self.table.facts {
            text.push_str(&format!("{}\n", printable(fact)));
        }
        for done in self.applied.iter().flatten() {
            text.push_str(&format!("done: {}\n", printable(done)));
        }
        text.push_str(if self.table.exists { "There is a table.\n" } else { "There is no table.\n" });
        text.push_str(&format!("\nHow a table should be:\n{}\n", indented(&self.schema)));
        if !self.table.differences.is_empty() {
            text.push_str("\nHow it differs:\n");
        }
        for difference in self.sorted() {
            text.push_str(&to_text(difference));
        }
        text.push_str(&format!("\n{}\n", self.advice()));
        text
    }

    /// Returns the differences, the gravest first.
    fn sorted(&self) -> impl Iterator<Item = &Difference> {
        let mut differences: Vec<&Difference> = self.table.differences.iter().collect();
        differences.sort_by_key(|difference| std::cmp::Reverse(difference.severity));
        differences.into_iter()
    }

    /// Says what to do next.
    fn advice(&self) -> &'static str {
        let changes = || self.table.differences.iter().filter_map(|difference| difference.change.as_ref());
        match (&self.applied, self.table.severity()) {
            (None, _) if !self.table.exists => "Nothing was changed; --apply makes the table.",
            (None, None) => "The table is as it should be; there is nothing to do.",
            (None, Some(_)) if changes().any(|change| change.is_safe) => {
                "Nothing was changed; --apply makes the changes marked so, the others are to be made by hand."
            }
            (Some(_), None) => "The table is as it should be.",
            (_, Some(Severity::Broken)) => {
                "Keys cannot be kept in this table before what is broken is changed by hand."
            }
            (_, Some(Severity::Risky)) => "The table can be used; what is risky is to be changed by hand.",
            (_, Some(Severity::Harmless)) => "The table can be used as it is.",
        }
    }
}

impl<'a> Entry<'a> {
    fn new(difference: &'a Difference) -> Self {
        let change = difference.change.as_ref();
        Self {
            severity: word(difference.severity),
            about: &difference.about,
            change: change.map(|change| change.statement.as_str()),
            applies: change.is_some_and(|change| change.is_safe),
        }
    }
}

/// What a severity is called, here and in [`Look::advice`].
fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Harmless => "harmless",
        Severity::Risky => "risky",
        Severity::Broken => "broken",
    }
}

fn to_text(difference: &Difference) -> String {
    let about = printable(&difference.about);
    let mut text = format!("  {}: {about}\n", word(difference.severity));
    if let Some(change) = &difference.change {
        let by = if change.is_safe { "--apply does" } else { "by hand" };
        text.push_str(&format!("    {by}: {}\n", printable(&change.statement)));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
