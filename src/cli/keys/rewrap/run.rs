//! Goes through the lines.

use std::path::Path;

use keyward::{CryptoPolicy, DataRowRecord, KeyMeta};

use super::judge::{Fault, Judge, LineError, Looks, Verdict};
use super::lines::{Line, Lines};
use super::pace::Pace;
use super::sink::{Earlier, Sink, is_same_file};
use super::tally::{Outcome, Tally};
use crate::cli::config::Config;
use crate::cli::ending::{Ending, Steps};
use crate::cli::error::Failure;
use crate::cli::input::{Input, is_standard};
use crate::cli::keys::options::Rewrap;
use crate::cli::open::{block_on, open_existing, require_store, with_factory};
use crate::cli::output::print;
use crate::cli::run::{say_plainly, warn};

/// Bytes that a line has beside the base64 of its payload, generously.
const FRAME: usize = 16 * 1024;

/// How many bytes of a line are sure to stay as they are: `{"Key":{"`, or what else comes first.
const BEGINNING: usize = 9;

/// Bytes that encryption adds to a payload.
const OVERHEAD: usize = 28;

/// Puts records under the newest keys, or says what would happen, and prints how many were under which.
///
/// # Errors
/// [`Failure`]; the output has everything before the line that stopped it.
pub(in crate::cli::keys) fn run(config: &Config, options: &Rewrap, ending: &Ending) -> Result<(), Failure> {
    require_store(&config.store)?;
    let limit = config.max_payload.saturating_add(OVERHEAD).div_ceil(3).saturating_mul(4).saturating_add(FRAME);
    if !options.execute {
        let lines = Lines::new(Input::open(&options.input)?, limit);
        return block_on(look(Job::new(config, options, lines, Sink::Nothing, ending.steps(), limit)));
    }
    if is_same_file(&options.input, &options.output) {
        let hint = "name another file with --out, and replace the old one when it is complete";
        return Err(Failure::Usage { fault: "--in and --out are the same file", hint });
    }
    if options.resume && (is_standard(&options.input) || is_standard(&options.output)) {
        let hint = "name files with --in and --out";
        return Err(Failure::Usage { fault: "a pipe cannot be resumed", hint });
    }
    let mut lines = Lines::new(Input::open(&options.input)?, limit);
    let (mut sink, earlier) = if options.resume {
        Sink::resume(&options.output, limit)?
    } else {
        (Sink::begin(&options.output)?, Earlier::default())
    };
    let is_begun = earlier.rest.is_empty() || is_begun_line(&options.input, &earlier, limit)?;
    pass_over(&mut lines, &earlier, is_begun, &options.output)?;
    sink.cut(&earlier)?;
    // Before the factory, so that a signal lets the line under way be written before it closes that.
    let mut job = Job::new(config, options, lines, sink, ending.steps(), limit);
    let policy = CryptoPolicy { cache_sessions: true, ..config.policy.clone() };
    with_factory(config, policy, ending, |factory, store| {
        job.suffix = store.suffix().map(str::to_owned);
        rewrap(job, Judge::Rewraps(factory), earlier.lines)
    })
}

async fn look(mut job: Job<'_>) -> Result<(), Failure> {
    let store = open_existing(&job.config.store).await?;
    job.suffix = store.suffix().map(str::to_owned);
    let looks = Looks::new(store.admin, job.config.policy.expire_after);
    let mut judge = Judge::Looks(looks);
    let stopped = job.go(&mut judge).await;
    let newest = |key: &KeyMeta| if let Judge::Looks(looks) = &judge { looks.newest(key) } else { String::new() };
    let table = job.tally.to_table(Some(&newest));
    stopped?;
    print(&format!("{table}\nNothing was written; --execute writes --out.\n"))?;
    job.outcome()
}

async fn rewrap(mut job: Job<'_>, mut judge: Judge, earlier: u64) -> Result<(), Failure> {
    job.go(&mut judge).await?;
    job.sink.finish()?;
    let mut text = job.tally.to_table(None);
    if earlier > 0 {
        text.push_str(&format!("\n{earlier} lines before these were there already.\n"));
    }
    match job.sink {
        Sink::Standard => say_plainly(&text),
        _ => print(&text)?,
    }
    job.outcome()
}

/// Passes over the lines that an earlier run has written, and makes sure that it has written these.
fn pass_over(lines: &mut Lines, earlier: &Earlier, is_begun: bool, output: &Path) -> Result<(), Failure> {
    let is_so =
        lines.skip(earlier.lines)? && (earlier.lines == 0 || is_same_record(lines.text(), &earlier.last)) && is_begun;
    if is_so { Ok(()) } else { Err(Failure::OtherOutput { path: output.to_owned(), line: earlier.lines }) }
}

/// Whether what follows the last whole line may be the beginning of what an interrupted run made of the next one: it begins as
/// that does, but for white space.
fn is_begun_line(input: &Path, earlier: &Earlier, limit: usize) -> Result<bool, Failure> {
    let mut lines = Lines::new(Input::open(input)?, limit);
    if !lines.skip(earlier.lines + 1)? {
        return Ok(false);
    }
    let start = |text: &[u8]| -> Vec<u8> {
        text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(BEGINNING).collect()
    };
    let (rest, line) = (start(&earlier.rest), start(lines.text()));
    Ok(line.starts_with(&rest))
}

/// Whether one line is the other, re-wrapped or copied; of lines beyond the limit, as far as that can be seen.
fn is_same_record(a: &[u8], b: &[u8]) -> bool {
    match (DataRowRecord::from_json(a), DataRowRecord::from_json(b)) {
        (Ok(a), Ok(b)) => a.data() == b.data(),
        (Err(_), Err(_)) => a.starts_with(b) || b.starts_with(a),
        _ => false,
    }
}

/// The work on all lines.
struct Job<'a> {
    config: &'a Config,
    options: &'a Rewrap,
    lines: Lines,
    sink: Sink,
    steps: Steps,
    limit: usize,
    tally: Tally,
    /// What ids of keys in the store end in.
    suffix: Option<String>,
}

impl<'a> Job<'a> {
    fn new(config: &'a Config, options: &'a Rewrap, lines: Lines, sink: Sink, steps: Steps, limit: usize) -> Self {
        Self { config, options, lines, sink, steps, limit, tally: Tally::default(), suffix: None }
    }

    /// Judges line after line, and writes each.
    async fn go(&mut self, judge: &mut Judge) -> Result<(), Failure> {
        let mut pace = self.options.rate.map(Pace::new);
        while let Some(line) = self.lines.advance()? {
            if let Some(pace) = &mut pace {
                pace.wait().await;
            }
            let (key, verdict) = match self.read(&line) {
                Ok((partition, record)) => {
                    let verdict = judge.judge(&partition, &record, self.lines.text()).await;
                    (Some(record.parent_key().clone()), verdict)
                }
                Err((key, error)) => (key, Err(error.into())),
            };
            match verdict {
                Ok(Verdict::Rewrapped(text)) => {
                    self.tally.count(key, Outcome::Rewrapped);
                    if let Some(mut text) = text {
                        text.extend_from_slice(if self.lines.text().ends_with(b"\r") { b"\r\n" } else { b"\n" });
                        self.steps.take(|| self.sink.write(&text))?;
                    }
                }
                Ok(Verdict::Unchanged) => {
                    self.tally.count(key, Outcome::Unchanged);
                    self.copy()?;
                }
                Err(Fault::Line(error)) if self.options.keep_going => {
                    self.tally.count(key, Outcome::Failed);
                    let text = self.at_line(error).text();
                    self.lines.progress.suspend(|| warn(&text));
                    self.copy()?;
                }
                Err(Fault::Line(error)) => return Err(self.at_line(error)),
                Err(Fault::Stop(failure)) => return Err(failure),
            }
        }
        self.lines.progress.clear();
        Ok(())
    }

    /// Reads the present line as a record, and tells its partition; an error names its key, where it has one.
    fn read(&self, line: &Line) -> Result<(String, DataRowRecord), (Option<KeyMeta>, LineError)> {
        match line {
            Line::Text => {}
            Line::Blank => return Err((None, LineError::Blank)),
            Line::TooLong => return Err((None, LineError::TooLong(self.limit))),
        }
        let record = DataRowRecord::from_json(self.lines.text()).map_err(|error| (None, error.into()))?;
        let key = record.parent_key();
        let Some(partition) = self.config.partition_of(&key.id, self.suffix.as_deref()).map(str::to_owned) else {
            return Err((Some(key.clone()), LineError::Foreign(key.id.clone())));
        };
        if self.options.partition.as_ref().is_some_and(|only| *only != partition) {
            return Err((Some(key.clone()), LineError::OtherPartition(partition)));
        }
        Ok((partition, record))
    }

    /// Writes the present line as it is.
    fn copy(&mut self) -> Result<(), Failure> {
        let Self { lines, sink, steps, .. } = self;
        steps.take(|| lines.pass_on(|bytes| sink.write(bytes)))
    }

    fn at_line(&self, source: LineError) -> Failure {
        Failure::Line { name: self.lines.name.clone(), line: self.lines.number(), source }
    }

    /// What the command ends with when all lines were gone through.
    fn outcome(&self) -> Result<(), Failure> {
        match self.tally.failed() {
            0 => Ok(()),
            failed => Err(Failure::Lines { failed }),
        }
    }
}
