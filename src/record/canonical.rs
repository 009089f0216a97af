//! The canonical shape: written in one pass into one sized buffer, parsed in one pass without allocating.

use std::sync::LazyLock;

use base64::Engine;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use base64::engine::GeneralPurpose as Base64;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use base64::engine::Simd as Base64;
use base64::engine::general_purpose::PAD;

use super::{DataRowRecord, EnvelopeKeyRecord};
use crate::error::RecordError;
use crate::ids::{KeyId, KeyMeta};

/// RFC 4648 section 4, standard alphabet with padding; picks AVX2 or NEON on its first use.
static BASE64: LazyLock<Base64> = LazyLock::new(|| {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return Base64::standard(PAD);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Base64::new(&base64::alphabet::STANDARD, PAD);
});

/// Longest decimal text of an `i64`.
const MAX_DECIMAL: usize = 20;

/// The parts of a data row record on their way to text.
pub(crate) struct RecordParts<'a> {
    pub(crate) created: i64,
    pub(crate) encrypted_key: &'a [u8],
    pub(crate) parent_id: &'a str,
    pub(crate) parent_created: i64,
    pub(crate) data: &'a [u8],
}

impl RecordParts<'_> {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let size = 96
            + 2 * MAX_DECIMAL
            + base64_size(self.encrypted_key.len())
            + self.parent_id.len()
            + base64_size(self.data.len());
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(br#"{"Key":{"Created":"#);
        push_decimal(&mut out, self.created);
        out.extend_from_slice(br#","Key":""#);
        push_base64(&mut out, self.encrypted_key);
        out.extend_from_slice(br#"","ParentKeyMeta":{"KeyId":"#);
        push_string(&mut out, self.parent_id);
        out.extend_from_slice(br#","Created":"#);
        push_decimal(&mut out, self.parent_created);
        out.extend_from_slice(br#"}},"Data":""#);
        push_base64(&mut out, self.data);
        out.extend_from_slice(br#""}"#);
        out
    }
}

/// Writes `{"Revoked":true?,"Created":…,"Key":"…","ParentKeyMeta":{…}?}`.
pub(super) fn envelope_key_record(record: &EnvelopeKeyRecord) -> String {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(if record.revoked { br#"{"Revoked":true,"Created":"#.as_slice() } else { br#"{"Created":"# });
    push_decimal(&mut out, record.created);
    out.extend_from_slice(br#","Key":""#);
    push_base64(&mut out, &record.encrypted_key);
    out.push(b'"');
    if let Some(parent) = &record.parent_key {
        out.extend_from_slice(br#","ParentKeyMeta":{"KeyId":"#);
        push_string(&mut out, parent.id.as_str());
        out.extend_from_slice(br#","Created":"#);
        push_decimal(&mut out, parent.created);
        out.push(b'}');
    }
    out.push(b'}');
    String::from_utf8(out).expect("only whole strings and ASCII were written")
}

/// A data row record in canonical shape, still as text.
pub(crate) struct RecordView<'a> {
    pub(crate) created: i64,
    pub(crate) encrypted_key: &'a [u8],
    pub(crate) parent_id: &'a str,
    pub(crate) parent_created: i64,
    pub(crate) data: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Parses the shape that [`RecordParts::to_json`] writes; `None` for anything else, which may still be legal.
    ///
    /// The base64 fields are not yet decoded: `encrypted_key` and `data` are text.
    pub(crate) fn parse(json: &'a [u8]) -> Option<Self> {
        let mut rest = json;
        expect(&mut rest, br#"{"Key":{"Created":"#)?;
        let created = decimal(&mut rest)?;
        expect(&mut rest, br#","Key":""#)?;
        let encrypted_key = string(&mut rest)?;
        expect(&mut rest, br#","ParentKeyMeta":{"KeyId":""#)?;
        let parent_id = std::str::from_utf8(string(&mut rest)?).ok()?;
        expect(&mut rest, br#","Created":"#)?;
        let parent_created = decimal(&mut rest)?;
        expect(&mut rest, br#"}},"Data":""#)?;
        let data = rest.strip_suffix(br#""}"#)?;
        Some(Self { created, encrypted_key, parent_id, parent_created, data })
    }

    /// Returns how many bytes the data has once decoded, if it is base64.
    pub(crate) fn data_size(&self) -> usize {
        let padding = self.data.iter().rev().take(2).filter(|&&byte| byte == b'=').count();
        (self.data.len() / 4 * 3).saturating_sub(padding)
    }

    pub(super) fn to_record(&self) -> Result<DataRowRecord, RecordError> {
        let mut encrypted_key = Vec::new();
        decode_base64_into("Key", self.encrypted_key, &mut encrypted_key)?;
        let mut data = Vec::new();
        decode_base64_into("Data", self.data, &mut data)?;
        let parent = KeyMeta { id: KeyId::new(self.parent_id), created: self.parent_created };
        Ok(DataRowRecord::from_parts(self.created, encrypted_key, parent, data))
    }
}

/// Decodes base64 text to the end of `out`.
pub(crate) fn decode_base64_into(field: &'static str, text: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
    BASE64.decode_vec(text, out).map_err(|_| RecordError::Base64 { field })
}

pub(crate) fn base64_text(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn base64_size(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + base64_size(bytes.len()), 0);
    BASE64.encode_slice(bytes, &mut out[start..]).expect("the slice has the encoded size");
}

fn push_decimal(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0_u8; MAX_DECIMAL];
    let mut position = MAX_DECIMAL;
    let mut rest = number.unsigned_abs();
    loop {
        position -= 1;
        digits[position] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[position..]);
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing a string to memory does not fail");
    }
}

fn expect(rest: &mut &[u8], text: &[u8]) -> Option<()> {
    *rest = rest.strip_prefix(text)?;
    Some(())
}

/// A JSON integer without exponent, fraction or leading zero.
fn decimal(rest: &mut &[u8]) -> Option<i64> {
    let negative = rest.first() == Some(&b'-');
    let digits = if negative { &rest[1..] } else { *rest };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 || length > 18 || (length > 1 && digits[0] == b'0') {
        return None;
    }
    let value = digits[..length].iter().fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
    *rest = &digits[length..];
    Some(if negative { -value } else { value })
}

/// A JSON string without escapes, its opening quote already taken.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20)?;
    let (text, tail) = rest.split_at(length);
    *rest = tail.strip_prefix(b"\"")?;
    Some(text)
}
