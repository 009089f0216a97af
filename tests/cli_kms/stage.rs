//! What these stories have in common.
#![allow(dead_code, reason = "not every build has all services")]

use std::process::Output;

use serde_json::Value;

use crate::cli_support::{TestResult, World};

/// Makes sure of the exit code; returns what the command printed and what it complained of.
pub(crate) fn ended(code: i32, arguments: &[&str], output: Output) -> TestResult<(String, String)> {
    let (said, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{complaint}");
    Ok((said, complaint))
}

/// Returns id and outcome of each key in a report.
pub(crate) fn outcomes(report: &Value) -> Vec<String> {
    let keys = report["keys"].as_array().map_or(&[][..], Vec::as_slice);
    keys.iter().map(|key| format!("{} {}", key["id"], key["outcome"]).replace('"', "")).collect()
}

/// Returns the rows of all system keys, as they stand in the table.
pub(crate) fn rows(world: &World) -> TestResult<Vec<String>> {
    let table = world.table()?;
    let mut select = table.prepare("SELECT key_record FROM encryption_key WHERE id GLOB '_SK*' ORDER BY id")?;
    Ok(select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

pub(crate) fn text(error: Box<dyn std::error::Error + Send + Sync>) -> Box<dyn std::error::Error> {
    error
}
