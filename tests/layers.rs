//! The layers of the crate: a file imports from its own layer or from those beneath, never upward.
//!
//! Imports are found in the text of the sources, without comments and literals: `crate::…`, the `super::…` that
//! leave their top-level module, and `keyward::…`, by which only the command may name the library.

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

type TestResult = Result<(), Box<dyn Error>>;

/// Top-level modules by layer, bottom first. `lib.rs` is the map of the crate and belongs to none.
const LAYERS: [&[&str]; 11] = [
    &["error", "clock", "metrics"],
    &["memory"],
    &["crypto"],
    &["aws", "cache", "clients", "retry"],
    &["ids", "record", "policy"],
    &["envelope", "audit"],
    &["stores", "kms"],
    &["actors"],
    &["factory", "keys", "session"],
    &["server"],
    &["cli", "main"],
];

#[test]
fn no_file_imports_upward() -> TestResult {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for path in rust_files(&root)? {
        let file = path.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
        faults.extend(check(&file, &fs::read_to_string(&path)?));
    }
    let list: Vec<String> = faults.iter().map(Fault::to_string).collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
    Ok(())
}

#[test]
fn upward_imports_are_found_in_every_form() {
    let cases = [
        ("crypto/aead.rs", "use crate::actors::guard::Guard;", "crate::actors"),
        ("crypto/aead.rs", "use crate::{error::Error, session::{Session, self}};", "crate::session"),
        ("crypto/mod.rs", "pub(crate) use crate::kms::Kms;", "crate::kms"),
        ("crypto/aead.rs", "fn f<'a>(c: char) { if c == '\"' { crate::stores::get() } }", "crate::stores"),
        ("error.rs", "impl From<crate::memory::Fault> for Error {}", "crate::memory"),
        ("ids.rs", "use super::envelope::Envelope;", "super::envelope"),
        ("ids.rs", "mod tests { use super::super::envelope::Envelope; }", "super::envelope"),
        ("record/mod.rs", "use super::{ids, envelope};", "super::envelope"),
        ("record/tolerant.rs", "use super::super::envelope::open;", "super::envelope"),
    ];
    for (file, source, import) in cases {
        let faults = check(file, &format!("// first line\n{source}"));
        let expected = Fault { file: file.into(), line: 2, import: import.into(), reason: UPWARD };
        assert_eq!(faults, [expected], "{source}");
    }
}

#[test]
fn imports_that_nobody_can_place_are_faults() {
    let cases = [
        ("misc.rs", "", "", NO_LAYER),
        ("ids.rs", "use crate::Error;", "crate::Error", NOT_A_MODULE),
        ("ids.rs", "use crate::*;", "crate::*", NOT_A_MODULE),
        ("ids.rs", "use keyward::Session;", "keyward::Session", BY_NAME),
    ];
    for (file, source, import, reason) in cases {
        let expected = Fault { file: file.into(), line: 1, import: import.into(), reason };
        assert_eq!(check(file, source), [expected], "{file}: {source}");
    }
}

#[test]
fn everything_else_is_allowed() {
    let cases = [
        ("lib.rs", "pub use crate::session::Session;"),
        ("actors/guard.rs", "use crate::{actors::system, memory::arena::{Arena, Slot}, error::*};"),
        ("actors/guard.rs", "use super::system::System; mod tests { use super::super::system; }"),
        ("ids.rs", "mod tests { use super::*; use super::cache; }"),
        ("stores/sqlite.rs", "use crate::memory::secret::Secret; pub(crate) fn f() {}"),
        ("cli/mod.rs", "use keyward::{Session, kms::StaticKms}; use crate::cli::options;"),
        ("main.rs", "mod cli; fn main() { keyward::run(cli::parse()) }"),
        ("error.rs", "//! [`crate::session`]\n/* crate::session /* */ crate::kms */ // crate::kms"),
        ("error.rs", r##"const A: &str = "\"crate::kms"; const B: &str = r#"" crate::kms "#; const C: char = '\'';"##),
    ];
    for (file, source) in cases {
        assert_eq!(check(file, source), [], "{file}: {source}");
    }
}

const UPWARD: &str = "imports from a layer above its own";
const NO_LAYER: &str = "a new top-level file: give it a layer in tests/layers.rs";
const NOT_A_MODULE: &str = "is not a module with a layer: import from the module that defines it";
const BY_NAME: &str = "names the library from inside; only cli/ and main.rs may";

/// Something wrong with a file; line 1 when it is the file as a whole.
#[derive(Debug, PartialEq)]
struct Fault {
    file: String,
    line: usize,
    import: String,
    reason: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, import, reason } = self;
        write!(f, "src/{file}:{line}: {import}{}{reason}", if import.is_empty() { "" } else { " " })
    }
}

/// Checks one file, given by its path below `src/`.
fn check(file: &str, source: &str) -> Vec<Fault> {
    let fault = |line, import, reason| Fault { file: file.to_owned(), line, import, reason };
    let top = file.split('/').next().unwrap_or(file).trim_end_matches(".rs");
    if file == "lib.rs" {
        return Vec::new();
    }
    let Some(own) = layer(top) else { return vec![fault(1, String::new(), NO_LAYER)] };
    let mut faults = Vec::new();
    for Import { line, root, name } in imports(&code_only(source), module_depth(file)) {
        let reason = match (root, layer(&name)) {
            ("keyward", _) if own == LAYERS.len() - 1 => continue,
            ("keyward", _) => BY_NAME,
            (_, None) => NOT_A_MODULE,
            (_, Some(layer)) if layer <= own => continue,
            (_, Some(_)) => UPWARD,
        };
        faults.push(fault(line, format!("{root}::{name}"), reason));
    }
    faults
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Returns how many `super` lead from a file's outermost code to the root of the crate.
fn module_depth(file: &str) -> usize {
    let folders = file.matches('/').count();
    if file.ends_with("/mod.rs") || file == "main.rs" { folders } else { folders + 1 }
}

/// A name of the crate's root that a path mentions.
struct Import {
    line: usize,
    root: &'static str,
    name: String,
}

/// Finds what paths mention of the crate's root; `depth` is that of the file as a module.
fn imports(code: &str, depth: usize) -> Vec<Import> {
    let tokens = tokens(code);
    let text = |at: usize| tokens.get(at).map_or("", |&(text, _)| text);
    let (mut found, mut braces, mut inline_modules) = (Vec::new(), 0_usize, Vec::new());
    for at in 0..tokens.len() {
        let follows_path = at > 0 && text(at - 1) == "::";
        let (root, after) = match text(at) {
            "{" => {
                if at > 1 && text(at - 2) == "mod" {
                    inline_modules.push(braces);
                }
                braces += 1;
                continue;
            }
            "}" => {
                braces = braces.saturating_sub(1);
                inline_modules.pop_if(|opened_at| *opened_at == braces);
                continue;
            }
            "crate" if text(at + 1) == "::" => ("crate", at + 2),
            "keyward" if text(at + 1) == "::" && !follows_path => ("keyward", at + 2),
            "super" if !follows_path => {
                let supers = (0..).take_while(|n| text(at + 2 * n) == "super" && text(at + 2 * n + 1) == "::").count();
                if supers < depth + inline_modules.len() {
                    continue;
                }
                ("super", at + 2 * supers)
            }
            _ => continue,
        };
        for name_at in first_names(&text, after) {
            let (name, line) = tokens[name_at];
            found.push(Import { line, root, name: name.to_owned() });
        }
    }
    found
}

/// Returns where the next segments of a path stand: one, or those of a `{…}` group.
fn first_names<'a>(text: &impl Fn(usize) -> &'a str, at: usize) -> Vec<usize> {
    if text(at) != "{" {
        return vec![at];
    }
    let (mut names, mut depth, mut at) = (Vec::new(), 1, at + 1);
    let mut expected = true;
    while depth > 0 && !text(at).is_empty() {
        match text(at) {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            _ if expected => {
                names.push(at);
                expected = false;
            }
            _ => {}
        }
        at += 1;
    }
    names
}

/// Splits code into words, `::` and single characters, each with its line.
fn tokens(code: &str) -> Vec<(&str, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            let (token, after) = rest.split_at(length);
            tokens.push((token, index + 1));
            rest = after.trim_start();
        }
    }
    tokens
}

/// Blanks out comments, strings and characters; lines stay where they are.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    let mut in_word = false;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !in_word => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (gone, after) = rest.split_at(length);
        code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
        in_word = false;
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            in_word = first.is_alphanumeric() || first == '_';
        }
    }
    code
}

/// Length of the block comment, with the comments inside it, that `text` begins with.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of the string literal that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string literal that `text` begins with; 0 when it begins with something else.
fn raw_string(text: &str) -> usize {
    let prefix = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let Some(after) = prefix.strip_prefix('r') else { return 0 };
    let hashes = after.len() - after.trim_start_matches('#').len();
    if !after[hashes..].starts_with('"') {
        return 0;
    }
    let opening = text.len() - after.len() + hashes + 1;
    let closing = format!("\"{}", "#".repeat(hashes));
    text[opening..].find(&closing).map_or(text.len(), |at| opening + at + closing.len())
}

/// Length of the character literal that `text` begins with; 0 when it is a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, _))) => text[at + 1..].find('\'').map_or(text.len(), |end| at + end + 2),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
