//! Reads lines, one at a time and none larger than a limit.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use crate::cli::error::Failure;
use crate::cli::input::Input;
use crate::cli::progress::Progress;

/// How much is read at a time.
const STEP: usize = 256 << 10;

/// The lines of a file or pipe.
pub(super) struct Lines {
    pub(super) name: String,
    pub(super) progress: Progress,
    reader: BufReader<Box<dyn Read>>,
    limit: usize,
    present: Piece,
    /// The number of the present line, or that of the first when they are blank.
    number: u64,
    /// A piece that was read to see whether blank lines end the file.
    ahead: Option<Piece>,
    /// Whether the reader stands in the middle of a line.
    is_inside: bool,
}

/// A line, or some blank ones, with their line feeds.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    lines: u64,
    /// Whether there is more of the line than the limit allows to keep.
    is_cut: bool,
}

/// What the present line is; its text is [`Lines::text`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text,
    /// One or more lines of nothing but white space, with text after them.
    Blank,
    /// More than the limit.
    TooLong,
}

impl Lines {
    /// Reads lines of at most `limit` bytes.
    pub(super) fn new(input: Input, limit: usize) -> Self {
        let (name, size, reader) = input.into_parts();
        Self {
            name,
            progress: Progress::slow("reading records", size),
            reader: BufReader::with_capacity(STEP, reader),
            limit,
            present: Piece::default(),
            number: 1,
            ahead: None,
            is_inside: false,
        }
    }

    /// Returns the number of the present line, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the present line without its line feed; of one that is too long, the beginning.
    pub(super) fn text(&self) -> &[u8] {
        self.present.bytes.strip_suffix(b"\n").unwrap_or(&self.present.bytes)
    }

    /// Goes on to the next line; blank ones at the end of the file are none.
    ///
    /// # Errors
    /// [`Failure::Read`].
    pub(super) fn advance(&mut self) -> Result<Option<Line>, Failure> {
        let next = match self.ahead.take() {
            Some(ahead) => Some(ahead),
            None => self.read()?,
        };
        self.number += self.present.lines;
        let Some(next) = next else { return Ok(None) };
        self.present = next;
        if self.present.is_cut {
            return Ok(Some(Line::TooLong));
        }
        if !self.present.is_blank() {
            return Ok(Some(Line::Text));
        }
        loop {
            match self.read()? {
                None => return Ok(None),
                Some(more) if more.is_blank() && self.present.bytes.len() < self.limit => {
                    self.present.bytes.extend_from_slice(&more.bytes);
                    self.present.lines += 1;
                }
                Some(text) => {
                    self.ahead = Some(text);
                    return Ok(Some(Line::Blank));
                }
            }
        }
    }

    /// Passes over lines, blank or not, and makes the last of them the present one; `false` when there are not so many.
    ///
    /// # Errors
    /// [`Failure::Read`].
    pub(super) fn skip(&mut self, lines: u64) -> Result<bool, Failure> {
        for _ in 0..lines {
            self.number += self.present.lines;
            let Some(next) = self.read()? else { return Ok(false) };
            self.present = next;
        }
        Ok(true)
    }

    /// Writes the present line as it is, the part beyond the limit too, with a line feed at its end.
    ///
    /// # Errors
    /// [`Failure::Read`]; what `write` says.
    pub(super) fn pass_on(&mut self, mut write: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        write(&self.present.bytes)?;
        let mut is_whole = self.present.bytes.ends_with(b"\n");
        if self.present.is_cut {
            while self.is_inside {
                let mut part = Vec::new();
                self.take(STEP, &mut part)?;
                if part.is_empty() {
                    break;
                }
                write(&part)?;
                is_whole = part.ends_with(b"\n");
            }
        }
        if is_whole { Ok(()) } else { write(b"\n") }
    }

    /// Reads a line, after what is left of the one before.
    fn read(&mut self) -> Result<Option<Piece>, Failure> {
        while self.is_inside {
            let mut rest = Vec::new();
            self.take(STEP, &mut rest)?;
        }
        let mut bytes = Vec::new();
        self.take(self.limit.saturating_add(1), &mut bytes)?;
        let is_cut = self.is_inside;
        Ok(Some(Piece { lines: 1, is_cut, bytes }).filter(|piece| !piece.bytes.is_empty()))
    }

    /// Reads to the end of the line, but at most `most` bytes.
    fn take(&mut self, most: usize, to: &mut Vec<u8>) -> Result<(), Failure> {
        let failed = |name: &str, source| Failure::Read { name: name.to_owned(), source };
        let mut left = most;
        while left > 0 {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(&self.name, error)),
            };
            if available.is_empty() {
                self.is_inside = false;
                return Ok(());
            }
            let available = &available[..available.len().min(left)];
            let end = available.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(available.len());
            to.extend_from_slice(&available[..taken]);
            self.reader.consume(taken);
            self.progress.add(taken);
            left -= taken;
            if end.is_some() {
                self.is_inside = false;
                return Ok(());
            }
        }
        self.is_inside = true;
        Ok(())
    }
}

impl Piece {
    fn is_blank(&self) -> bool {
        !self.is_cut && self.bytes.trim_ascii().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static [u8]) -> Lines {
        Lines::new(Input::of_bytes("test", text), 4)
    }

    #[test]
    fn lines_are_told_apart_and_blank_ones_at_the_end_are_none() -> Result<(), Failure> {
        let mut lines = lines(b"a\n\n \nb\r\n12345\n1234\nlast\n\n\r\n");
        let mut seen = Vec::new();
        while let Some(line) = lines.advance()? {
            let mut whole = Vec::new();
            lines.pass_on(|bytes| {
                whole.extend_from_slice(bytes);
                Ok(())
            })?;
            seen.push((lines.number(), line, String::from_utf8_lossy(&whole).into_owned()));
        }
        let expected = [
            (1, Line::Text, "a\n"),
            (2, Line::Blank, "\n \n"),
            (4, Line::Text, "b\r\n"),
            (5, Line::TooLong, "12345\n"),
            (6, Line::Text, "1234\n"),
            (7, Line::Text, "last\n"),
        ];
        assert_eq!(seen, expected.map(|(number, line, text)| (number, line, text.to_owned())));
        Ok(())
    }

    #[test]
    fn a_line_that_is_too_long_can_be_passed_over() -> Result<(), Failure> {
        let mut lines = lines(b"123456789\nb");
        assert_eq!(lines.advance()?, Some(Line::TooLong));
        assert_eq!(lines.advance()?, Some(Line::Text));
        assert_eq!((lines.number(), lines.text()), (2, &b"b"[..]));
        assert_eq!(lines.advance()?, None);
        Ok(())
    }

    #[test]
    fn skipping_counts_every_line() -> Result<(), Failure> {
        let mut lines = lines(b"a\n\n123456\nb\nc\n");
        assert!(lines.skip(4)?);
        assert_eq!((lines.number(), lines.text()), (4, &b"b"[..]));
        assert_eq!(lines.advance()?, Some(Line::Text));
        assert_eq!((lines.number(), lines.text()), (5, &b"c"[..]));
        assert!(!lines.skip(1)?);
        Ok(())
    }
}
