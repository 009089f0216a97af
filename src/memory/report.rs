//! What protects the secrets of this process, in one place.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::arena::Arena;
use super::backend::{Backend, Protection};
use super::harden;
use super::pages::{self, Limits};
use super::settings::ArenaStatus;

/// What protects the secrets of this process.
///
/// Serializes, for a status page; its text is one line, for the log.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The arena, when it was mapped and neither wiped as a whole nor left to the parent of a fork.
    pub arena: Option<ArenaStatus>,
    /// What the process may lock and has locked.
    pub limits: Limits,
    /// What protects the process as a whole, beside the protections of the arena.
    pub process: Vec<Protection>,
    /// What a panic does in this build: `unwind` or `abort`.
    pub panic: &'static str,
    /// Whether something lacks that the strict policy asks for.
    pub degraded: bool,
}

/// Returns what protects the secrets of this process now; costs a few system calls.
#[must_use]
pub fn report() -> Report {
    let arena = Arena::mapped().map(|arena| arena.status());
    let mut process = harden::protections();
    #[cfg(unix)]
    process.extend(super::signals::protections());
    let lacks = |protections: &[Protection]| protections.iter().any(|of| of.required && !of.active);
    let degraded = arena.as_ref().is_some_and(ArenaStatus::is_degraded) || lacks(&process);
    let panic = if cfg!(panic = "abort") { "abort" } else { "unwind" };
    Report { arena, limits: pages::limits(), process, panic, degraded }
}

impl Report {
    /// Returns all protections, those of the arena first.
    pub fn protections(&self) -> impl Iterator<Item = &Protection> {
        self.arena.iter().flat_map(|arena| &arena.protections).chain(&self.process)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.arena {
            Some(arena) => write!(
                f,
                "secret memory: {}, {} KiB locked, {} keys fit, {} scratch slots",
                arena.backend,
                arena.locked_bytes / 1024,
                arena.slots,
                arena.scratch_slots,
            )?,
            None => f.write_str("secret memory: not mapped yet")?,
        }
        write!(f, "; limit {} soft, {} hard", Bytes(self.limits.soft), Bytes(self.limits.hard))?;
        for absent in self.protections().filter(|protection| !protection.active) {
            write!(f, "; absent: {}", absent.name)?;
        }
        f.write_str(if self.degraded { "; degraded" } else { "" })
    }
}

/// A limit as people read it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            bytes => write!(f, "{} KiB", bytes / 1024),
        }
    }
}

impl Serialize for Backend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Limits", 3)?;
        fields.serialize_field("soft", &self.soft)?;
        fields.serialize_field("hard", &self.hard)?;
        fields.serialize_field("locked", &self.locked)?;
        fields.end()
    }
}

impl Serialize for Protection {
    /// As name, whether it is active and required, and errno and text of the cause where there is one.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Protection", 5)?;
        fields.serialize_field("name", self.name)?;
        fields.serialize_field("active", &self.active)?;
        fields.serialize_field("required", &self.required)?;
        fields.serialize_field("errno", &self.errno())?;
        fields.serialize_field("cause", &self.cause.as_ref().map(ToString::to_string))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_one_line_and_serializes() -> Result<(), Box<dyn std::error::Error>> {
        super::super::init(&super::super::ArenaSettings::default())?;
        let report = report();
        let line = report.to_string();
        assert!(line.starts_with("secret memory: mem") || line.starts_with("secret memory: mlock"), "{line}");
        assert!(!line.contains('\n') && line.contains("keys fit"), "{line}");
        let json = serde_json::to_value(&report)?;
        let names: Vec<_> = report.protections().map(|protection| protection.name).collect();
        assert!(names.len() > 10 && names.contains(&"canaries") && names.contains(&"no core files"), "{names:?}");
        assert_eq!(json["arena"]["protections"][0]["active"], report.arena.unwrap().protections[0].active);
        Ok(())
    }
}
