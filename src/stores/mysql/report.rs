//! Judges a table in MySQL or MariaDB: how it differs from the ideal, and whether that matters. Pure.

use super::facts::{Column, Key, ServerFacts, TableFacts};
use crate::stores::schema::{Change, Difference, Severity, TableReport};

/// What `id` needs at least: ids of 255 bytes exist.
const ID_LENGTH: u64 = 255;

/// What `key_record` needs at least: a system key wrapped for a dozen regions takes some 4 KB.
const RECORD_LENGTH: u64 = 4096;

/// Where `TIMESTAMP` ends.
const END: &str = "2038-01-19 03:14:07 UTC";

/// What `apply` does about a missing index. Both words keep it from locking anybody out, or it fails.
pub(super) const ADD_INDEX: &str =
    "ALTER TABLE encryption_key ADD INDEX encryption_key_created (created), ALGORITHM=INPLACE, LOCK=NONE";
const ADD_KEY: &str = "ALTER TABLE encryption_key ADD PRIMARY KEY (id, created)";
const MODIFY_CREATED: &str = "ALTER TABLE encryption_key MODIFY created DATETIME NOT NULL";
const MAKE_ANEW: &str = "make a table as `keyward migrate` prints it, and copy the rows that are to stay";

/// Returns the collation by which ids are compared byte by byte, as far as the server has one.
///
/// `utf8mb4_bin` ignores spaces at the end; those that do not came with MariaDB 10.2 and MySQL 8.0.17.
pub(super) fn collation(server: &ServerFacts) -> &'static str {
    match (server.is_mariadb(), server.number()) {
        (true, 100_200..) => "utf8mb4_nopad_bin",
        (false, 80_017..) => "utf8mb4_0900_bin",
        _ => "utf8mb4_bin",
    }
}

/// Returns the statement that makes the table.
///
/// `created` is `DATETIME`: it holds the digits that it is given. All implementations send the digits of UTC and never read
/// them back, so they work with it as with `TIMESTAMP`, which ends in 2038, depends on the time zones of server and
/// sessions, and cannot hold the digits that such a zone skips in spring. It has no default: the server's clock shows
/// another time than UTC, and a row that was given none is a mistake.
///
/// `key_record` is `TEXT`, as others make it: 64 KB, and no type that changes its text.
pub(super) fn create(server: &ServerFacts) -> String {
    let collation = collation(server);
    format!(
        "CREATE TABLE encryption_key (\n    \
             id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,\n    \
             created DATETIME NOT NULL,\n    \
             key_record TEXT CHARACTER SET utf8mb4 NOT NULL,\n    \
             PRIMARY KEY (id, created),\n    \
             INDEX encryption_key_created (created)\n\
         ) ENGINE=InnoDB ROW_FORMAT=DYNAMIC"
    )
}

/// Judges a table.
pub(super) fn judge(server: &ServerFacts, table: &TableFacts) -> TableReport {
    let mut differences = Vec::new();
    for name in ["id", "created", "key_record"] {
        match table.columns.iter().find(|column| column.name == name) {
            None => differences.push(broken(format!("the column {name} is missing"), MAKE_ANEW)),
            Some(column) if name == "id" => differences.extend(judge_id(server, column)),
            Some(column) if name == "created" => differences.extend(judge_created(server, column)),
            Some(column) => differences.extend(judge_record(column)),
        }
    }
    differences.extend(table.columns.iter().filter_map(judge_other));
    if !table.is_view {
        differences.extend(judge_keys(&table.keys));
        differences.extend(judge_engine(&table.engine));
    }
    TableReport { exists: true, differences, facts: facts(server, table) }
}

/// Tells what is known of the server, and of a table that is there.
pub(super) fn facts(server: &ServerFacts, table: &TableFacts) -> Vec<String> {
    let mut facts = vec![format!("the server is {}", server.version)];
    let is_strict = ["STRICT_ALL_TABLES", "STRICT_TRANS_TABLES", "TRADITIONAL"];
    let words = if is_strict.iter().any(|mode| server.sql_mode.contains(mode)) {
        "strict"
    } else {
        "not strict: it changes what it cannot store; not in sessions of this program, but in those of others"
    };
    facts.push(format!("its sql_mode is '{}': {words}", server.sql_mode));
    let [january, july] = server.offsets.map(|offset| {
        let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    });
    let zone = &server.time_zone;
    facts.push(if january == july {
        format!("its time zone is {zone}, UTC{january}; creation times are the digits of UTC all the same")
    } else {
        format!("its time zone is {zone}, UTC{january} in January and UTC{july} in July; creation times are the digits of UTC all the same")
    });
    if server.is_read_only {
        facts.push("it is read-only: keys can be loaded and none can be made".to_owned());
    }
    if table.is_view {
        facts.push("encryption_key is a view: the tables behind it were not looked at".to_owned());
    }
    let described = table.columns.iter().filter(|column| ["id", "created", "key_record"].contains(&&*column.name));
    facts.extend(described.map(|column| {
        let collation = column.collation.as_ref().map(|collation| format!(" COLLATE {collation}")).unwrap_or_default();
        format!("the column {} is {}{collation}", column.name, column.full_kind)
    }));
    facts
}

fn judge_id(server: &ServerFacts, column: &Column) -> Vec<Difference> {
    let ideal = collation(server);
    let modify =
        format!("ALTER TABLE encryption_key MODIFY id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {ideal} NOT NULL");
    let mut differences = Vec::new();
    match column.kind.as_str() {
        "varchar" | "varbinary" => {}
        "char" => differences.push(risky(
            "the column id is CHAR: it forgets spaces at the end of ids, which are never found again",
            &modify,
        )),
        kind if kind.ends_with("text") || kind.ends_with("blob") => {
            differences.push(harmless(format!("the column id is {}", column.full_kind), &modify));
        }
        _ => differences.push(broken(format!("the column id is {}, which holds no ids", column.full_kind), &modify)),
    }
    if let Some(length) = column.length.filter(|length| *length < ID_LENGTH) {
        differences.push(risky(
            format!("the column id ends at {length} characters: longer ids, up to 255, are refused"),
            &modify,
        ));
    }
    let Some(collation) = &column.collation else { return differences };
    if !is_unicode(collation) {
        let about = format!("the column id is {collation}: ids with characters that it lacks are refused");
        differences.push(risky(about, &modify));
    }
    if is_padded(collation) {
        let about = format!(
            "the column id is {collation}: ids that differ in nothing but spaces at the end cannot share a creation time"
        );
        differences.push(harmless(about, &modify));
    } else if !is_bytewise(collation) {
        let about = format!(
            "the column id is {collation}: ids that look alike to it, as of tenants Alice and alice, cannot share a creation \
             time; the second is refused until the next"
        );
        differences.push(risky(about, &modify));
    }
    differences
}

/// Whether two texts are the same only when their bytes are.
fn is_bytewise(collation: &str) -> bool {
    collation.ends_with("_nopad_bin") || collation.ends_with("_0900_bin") || collation == "binary"
}

/// Whether two texts are the same only when their bytes are, spaces at the end aside.
fn is_padded(collation: &str) -> bool {
    collation.ends_with("_bin") && !is_bytewise(collation)
}

fn is_unicode(collation: &str) -> bool {
    ["utf8mb4", "utf16", "utf32", "binary", "uca1400"].iter().any(|set| collation.starts_with(set))
}

fn judge_created(server: &ServerFacts, column: &Column) -> Vec<Difference> {
    let mut differences = Vec::new();
    match column.kind.as_str() {
        "datetime" => {}
        "timestamp" => {
            let about =
                format!("the column created is TIMESTAMP, which ends at {END}: no key can be created from then on");
            differences.push(risky(about, MODIFY_CREATED));
            if server.has_summer_time() {
                let about = "the column created is TIMESTAMP and the server's time zone has summer time: in the hour that its \
                    clocks skip in spring no key can be created";
                differences.push(risky(about, MODIFY_CREATED));
            }
        }
        "varchar" => differences
            .push(risky("the column created is text: others may store times in another layout", MODIFY_CREATED)),
        _ => {
            let about = format!("the column created is {}, which holds no times of seconds", column.full_kind);
            differences.push(broken(about, MODIFY_CREATED));
        }
    }
    if column.fraction > 0 {
        let about =
            "the column created holds fractions of seconds: a row of another program that has some is never found";
        differences.push(harmless(about, MODIFY_CREATED));
    }
    if column.extra.contains("on update") {
        let about = "the column created changes by itself when a row is changed (ON UPDATE): a program other than this one that \
            revokes a key moves it to another time, where nobody finds it";
        differences.push(risky(about, MODIFY_CREATED));
    }
    differences
}

fn judge_record(column: &Column) -> Vec<Difference> {
    let modify = "ALTER TABLE encryption_key MODIFY key_record TEXT CHARACTER SET utf8mb4 NOT NULL";
    let kind = column.kind.as_str();
    let mut differences = Vec::new();
    if !["text", "blob", "char", "binary"].iter().any(|text| kind.ends_with(text)) && kind != "json" {
        let about = format!("the column key_record is {}, which holds no records", column.full_kind);
        return vec![broken(about, modify)];
    }
    if kind == "binary" {
        let about = "the column key_record is BINARY: it adds bytes to records";
        return vec![broken(about, modify)];
    }
    if let Some(length) = column.length.filter(|length| *length < RECORD_LENGTH) {
        let about = format!("the column key_record ends at {length} characters: longer records are refused");
        differences.push(risky(about, modify));
    }
    if column.collation.as_ref().is_some_and(|collation| !is_unicode(collation)) {
        let about =
            "the column key_record lacks characters that ids may have: keys whose parent has such an id are refused";
        differences.push(risky(about, modify));
    }
    differences
}

fn judge_other(column: &Column) -> Option<Difference> {
    let is_ours = ["id", "created", "key_record"].contains(&&*column.name);
    if is_ours || column.is_optional {
        return None;
    }
    let about = format!(
        "the column {} has no default: rows without it, as all implementations store them, are refused",
        column.name
    );
    Some(broken(about, format!("ALTER TABLE encryption_key MODIFY {} {} NULL", column.name, column.full_kind)))
}

fn judge_keys(keys: &[Key]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for key in keys.iter().filter(|key| key.is_unique) {
        if let [column @ ("id" | "created")] = sorted(key)[..] {
            let about = format!("the key {} is unique over {column} alone: no second row of one is stored", key.name);
            differences.push(broken(about, format!("ALTER TABLE encryption_key DROP INDEX `{}`", key.name)));
        }
    }
    match keys.iter().find(|key| key.is_unique && sorted(key) == ["created", "id"]) {
        None => differences
            .push(broken("no key is unique over (id, created): two creators could store one version each", ADD_KEY)),
        Some(key) => {
            if let Some((_, Some(part))) = key.columns.iter().find(|(_, part)| part.is_some()) {
                let about = format!("the key {} sees {part} characters of ids: ids that share them collide", key.name);
                differences.push(risky(about, "make the key anew over whole ids"));
            }
        }
    }
    let begins_with = |name: &str| keys.iter().any(|key| key.columns.first().is_some_and(|(column, _)| column == name));
    if !begins_with("id") {
        differences.push(risky(
            "no key begins with id: each look-up reads the whole table",
            "ALTER TABLE encryption_key ADD INDEX (id, created)",
        ));
    }
    if !begins_with("created") {
        let about =
            "no index begins with created: programs that look for old keys read the whole table; this one does not"
                .to_owned();
        let change = Some(Change { statement: ADD_INDEX.to_owned(), is_safe: true });
        differences.push(Difference { about, severity: Severity::Harmless, change });
    }
    differences
}

fn sorted(key: &Key) -> Vec<&str> {
    let mut columns: Vec<&str> = key.columns.iter().map(|(column, _)| column.as_str()).collect();
    columns.sort_unstable();
    columns
}

fn judge_engine(engine: &str) -> Option<Difference> {
    let change = "ALTER TABLE encryption_key ENGINE=InnoDB";
    match engine.to_ascii_lowercase().as_str() {
        "innodb" | "rocksdb" | "ndbcluster" | "ndb" => None,
        "memory" | "blackhole" => Some(broken(
            format!("the table's engine is {engine}: it forgets keys, and with them all data under them"),
            change,
        )),
        _ => Some(risky(
            format!("the table's engine is {engine}: a crash of the server may lose keys that it said were stored"),
            change,
        )),
    }
}

fn broken(about: impl Into<String>, change: impl Into<String>) -> Difference {
    difference(Severity::Broken, about, change)
}

fn risky(about: impl Into<String>, change: impl Into<String>) -> Difference {
    difference(Severity::Risky, about, change)
}

fn harmless(about: impl Into<String>, change: impl Into<String>) -> Difference {
    difference(Severity::Harmless, about, change)
}

/// What is not an index rebuilds the table, while nobody else can write to it.
fn difference(severity: Severity, about: impl Into<String>, change: impl Into<String>) -> Difference {
    Difference { about: about.into(), severity, change: Some(Change { statement: change.into(), is_safe: false }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: &str) -> ServerFacts {
        ServerFacts { version: version.into(), ..ServerFacts::default() }
    }

    fn column(name: &str, kind: &str, length: Option<u64>, collation: Option<&str>) -> Column {
        let collation = collation.map(str::to_owned);
        Column { name: name.into(), kind: kind.into(), full_kind: kind.into(), length, collation, ..Column::default() }
    }

    fn ideal(collation: &str) -> TableFacts {
        let key = |name: &str, is_unique, columns: &[&str]| Key {
            name: name.into(),
            is_unique,
            columns: columns.iter().map(|column| ((*column).to_owned(), None)).collect(),
        };
        TableFacts {
            is_view: false,
            engine: "InnoDB".into(),
            columns: vec![
                column("id", "varchar", Some(255), Some(collation)),
                column("created", "datetime", None, None),
                column("key_record", "text", Some(65_535), Some("utf8mb4_general_ci")),
            ],
            keys: vec![key("PRIMARY", true, &["id", "created"]), key("created", false, &["created"])],
        }
    }

    #[test]
    fn each_server_gets_the_collation_that_it_has() {
        let cases = [
            ("10.11.6-MariaDB", "utf8mb4_nopad_bin"),
            ("10.1.48-MariaDB", "utf8mb4_bin"),
            ("8.4.2", "utf8mb4_0900_bin"),
            ("8.0.16", "utf8mb4_bin"),
            ("5.7.44-log", "utf8mb4_bin"),
        ];
        for (version, expected) in cases {
            assert!(create(&server(version)).contains(&format!("COLLATE {expected} ")), "{version}");
        }
    }

    #[test]
    fn a_table_as_it_should_be_differs_in_nothing() {
        for collation in ["utf8mb4_nopad_bin", "utf8mb4_0900_bin"] {
            assert_eq!(judge(&server("8.4.2"), &ideal(collation)).differences, []);
        }
        let mut json = ideal("utf8mb4_0900_bin");
        json.columns[2] = column("key_record", "json", None, None);
        assert_eq!(judge(&server("8.4.2"), &json).differences, []);
    }

    #[test]
    fn collations_matter_by_what_they_take_for_the_same() {
        let severity = |collation| judge(&server("8.4.2"), &ideal(collation)).severity();
        for collation in ["utf8mb4_bin", "utf32_bin"] {
            assert_eq!(severity(collation), Some(Severity::Harmless), "{collation}");
        }
        for collation in
            ["utf8mb4_0900_ai_ci", "utf8mb4_uca1400_ai_ci", "latin1_bin", "utf8mb3_nopad_bin", "ascii_general_ci"]
        {
            assert_eq!(severity(collation), Some(Severity::Risky), "{collation}");
        }
    }

    #[test]
    fn keys_must_hold_one_row_of_each_version_and_no_fewer() {
        let judged = |change: fn(&mut TableFacts)| {
            let mut table = ideal("utf8mb4_0900_bin");
            change(&mut table);
            judge(&server("8.4.2"), &table).severity()
        };
        assert_eq!(judged(|table| table.keys.clear()), Some(Severity::Broken));
        assert_eq!(judged(|table| table.keys[0].is_unique = false), Some(Severity::Broken));
        assert_eq!(judged(|table| table.keys[1].is_unique = true), Some(Severity::Broken));
        assert_eq!(judged(|table| table.keys[0].columns.reverse()), Some(Severity::Risky));
        assert_eq!(judged(|table| table.keys[0].columns[0].1 = Some(100)), Some(Severity::Risky));
        assert_eq!(judged(|table| table.keys.truncate(1)), Some(Severity::Harmless));
    }

    #[test]
    fn a_column_that_is_too_short_or_missing_is_told() {
        let mut table = ideal("utf8mb4_0900_bin");
        table.columns[0].length = Some(64);
        table.columns[2] = column("key_record", "tinytext", Some(255), None);
        let report = judge(&server("8.4.2"), &table);
        assert_eq!(report.differences.len(), 2, "{report:?}");
        assert_eq!(report.severity(), Some(Severity::Risky));
        table.columns.remove(1);
        assert_eq!(judge(&server("8.4.2"), &table).severity(), Some(Severity::Broken));
    }
}
