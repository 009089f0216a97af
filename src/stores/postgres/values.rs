//! What is sent for a column and read from one, whatever its type.
//!
//! `created` may be `timestamp` or `timestamptz`: both are 64-bit microseconds since 2000-01-01 on the wire, of UTC digits
//! the one, of an instant the other. So the session's time zone never matters. `key_record` may be text or JSON.

use std::error::Error;

use postgres_types::private::BytesMut;
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

pub(super) use crate::stores::rows::{FIRST, LAST};

/// 2000-01-01 in Unix seconds.
const EPOCH: i64 = 946_684_800;
const MICROS: i64 = 1_000_000;

/// A parameter of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Param<'a> {
    /// A key id, or text to compare with.
    Text(&'a str),
    /// A creation time from [`FIRST`] to [`LAST`], or just before it.
    Created(i64),
    /// The text of a record.
    Record(&'a str),
    /// A number of rows.
    Limit(i64),
}

/// The types of the columns, as far as they may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) created: Type,
    pub(super) record: Type,
}

/// Those of a new table.
impl Default for Columns {
    fn default() -> Self {
        Self { created: Type::TIMESTAMPTZ, record: Type::JSONB }
    }
}

impl Param<'_> {
    /// Returns the type that it is sent as where the server is not asked.
    pub(super) fn of(&self, columns: &Columns) -> Type {
        match self {
            Self::Text(_) => Type::TEXT,
            Self::Created(_) => columns.created.clone(),
            Self::Record(_) => columns.record.clone(),
            Self::Limit(_) => Type::INT8,
        }
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Text(text) | Self::Record(text) => {
                if *kind == Type::JSONB {
                    out.extend_from_slice(&[1]); // the version of the wire format
                }
                out.extend_from_slice(text.as_bytes());
            }
            Self::Created(created) => {
                let micros = created.checked_sub(EPOCH).and_then(|seconds| seconds.checked_mul(MICROS));
                out.extend_from_slice(&micros.ok_or("a time out of range")?.to_be_bytes());
            }
            Self::Limit(limit) => out.extend_from_slice(&limit.to_be_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        let known = [
            Type::TEXT,
            Type::VARCHAR,
            Type::BPCHAR,
            Type::JSON,
            Type::JSONB,
            Type::TIMESTAMP,
            Type::TIMESTAMPTZ,
            Type::INT8,
        ];
        known.contains(kind)
    }

    to_sql_checked!();
}

/// A creation time in Unix seconds; `None` when no look-up finds it: it has a fraction, or is infinite.
pub(super) struct Created(pub(super) Option<i64>);

impl<'a> FromSql<'a> for Created {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        let seconds = micros.div_euclid(MICROS).saturating_add(EPOCH);
        Ok(Self((micros.rem_euclid(MICROS) == 0 && (FIRST..=LAST).contains(&seconds)).then_some(seconds)))
    }

    fn accepts(kind: &Type) -> bool {
        [Type::TIMESTAMP, Type::TIMESTAMPTZ].contains(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_microseconds_since_2000() {
        for created in [FIRST, -1, 0, EPOCH, 1_700_000_000, LAST] {
            let mut wire = BytesMut::new();
            Param::Created(created).to_sql(&Type::TIMESTAMPTZ, &mut wire).unwrap();
            assert_eq!(Created::from_sql(&Type::TIMESTAMP, &wire).unwrap().0, Some(created));
        }
        let mut wire = BytesMut::new();
        Param::Created(EPOCH + 1).to_sql(&Type::TIMESTAMP, &mut wire).unwrap();
        assert_eq!(wire[..], 1_000_000_i64.to_be_bytes());
    }

    #[test]
    fn what_no_look_up_finds_is_none() {
        for micros in [1, -1, i64::MAX, i64::MIN, (LAST + 1 - EPOCH) * MICROS] {
            assert_eq!(Created::from_sql(&Type::TIMESTAMP, &micros.to_be_bytes()).unwrap().0, None, "{micros}");
        }
        assert!(Param::Created(i64::MAX).to_sql(&Type::TIMESTAMP, &mut BytesMut::new()).is_err());
    }
}
