//! Looking for keys: in the memory of a process, in files, and what is mapped where.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Half a key: also one of the first two round keys, so that an expanded key is found as well.
const HALF: usize = 16;

const PAGE: usize = 4096;

/// What is looked for.
pub(crate) struct Needles {
    halves: Vec<[u8; HALF]>,
    /// Whether some half begins with these two bytes.
    begins: Vec<bool>,
}

impl Needles {
    /// Both halves of each key.
    pub(crate) fn of<'a>(keys: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        let halves: Vec<[u8; HALF]> = keys.into_iter().flat_map(|key| key.as_chunks().0.iter().copied()).collect();
        let mut begins = vec![false; 1 << 16];
        for half in &halves {
            begins[usize::from(u16::from_ne_bytes([half[0], half[1]]))] = true;
        }
        Self { halves, begins }
    }

    /// Returns where halves stand in `bytes`.
    fn find(&self, bytes: &[u8]) -> Vec<usize> {
        let candidates = bytes
            .windows(2)
            .enumerate()
            .filter(|(_, two)| self.begins[usize::from(u16::from_ne_bytes([two[0], two[1]]))]);
        let is_half = |at: &usize| self.halves.iter().any(|half| bytes[*at..].starts_with(half));
        candidates.map(|(at, _)| at).filter(is_half).collect()
    }
}

/// A line of `/proc/PID/maps`, proc(5).
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) access: String,
    pub(crate) path: String,
    /// The words of `VmFlags`.
    flags: Vec<String>,
}

impl Mapping {
    pub(crate) fn bytes(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.path.starts_with("/secretmem")
    }

    /// Whether the mapping cannot be swapped.
    pub(crate) fn is_locked(&self) -> bool {
        self.flags.iter().any(|flag| flag == "lo")
    }
}

/// Returns the mappings of a process, a number or `self`.
pub(crate) fn mappings(process: &str) -> io::Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{process}/smaps"))?.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let flags = flags.split_whitespace().map(str::to_owned).collect();
            mappings.iter_mut().last().into_iter().for_each(|last| last.flags = Vec::clone(&flags));
        } else if let Some(mapping) = parse(line) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

/// Reads `start-end access offset device inode path`; other lines of smaps have a colon in their first word.
fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let bound = |text| usize::from_str_radix(text, 16).ok();
    let (start, end, access) = (bound(start)?, bound(end)?, words.next()?.to_owned());
    let path = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping { start, end, access, path, flags: Vec::new() })
}

/// What was found in a process.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Where halves of keys stand, and in which mapping.
    pub(crate) hits: Vec<(usize, Mapping)>,
    /// Mappings whose pages could not be read, though they are there.
    pub(crate) hidden: Vec<Mapping>,
}

impl Found {
    pub(crate) fn is_clean(&self) -> bool {
        self.hits.is_empty()
    }

    /// Returns what stands in locked memory: what the library keeps, and not what computing left elsewhere.
    pub(crate) fn in_locked_memory(mut self) -> Self {
        self.hits.retain(|(_, mapping)| mapping.is_locked());
        self
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} halves of keys", self.hits.len())?;
        for (address, mapping) in &self.hits {
            write!(f, "; at {address:x} in {:x}-{:x} {} {}", mapping.start, mapping.end, mapping.access, mapping.path)?;
        }
        Ok(())
    }
}

/// Reads all memory of another process, inaccessible pages too, as `/proc/PID/mem` allows.
///
/// # Errors
/// When the process's memory cannot be opened.
pub(crate) fn process(pid: i32, needles: &Needles) -> io::Result<Found> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let pages = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut found = Found::default();
    for mapping in mappings(&pid.to_string())? {
        // Not memory of the process's: the kernel's own, whose addresses no file offset can tell.
        if mapping.path == "[vsyscall]" || mapping.path.starts_with("[vvar") {
            continue;
        }
        let mut hidden = false;
        for (start, end) in resident(&pages, &mapping)? {
            hidden |= !search(&memory, (start, end), needles, |at| found.hits.push((at, mapping.clone())));
        }
        if hidden {
            found.hidden.push(mapping);
        }
    }
    Ok(found)
}

/// Returns the runs of pages that are in memory or in swap; the others hold nothing.
fn resident(pages: &File, mapping: &Mapping) -> io::Result<Vec<(usize, usize)>> {
    const ENTRY: usize = 8;
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let mut entries = vec![0; mapping.bytes() / PAGE * ENTRY];
    pages.read_exact_at(&mut entries, (mapping.start / PAGE * ENTRY) as u64)?;
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (entry, page) in entries.as_chunks().0.iter().zip((mapping.start..mapping.end).step_by(PAGE)) {
        if u64::from_ne_bytes(*entry) & PRESENT_OR_SWAPPED == 0 {
            continue;
        }
        match runs.last_mut() {
            Some((_, end)) if *end == page => *end = page + PAGE,
            _ => runs.push((page, page + PAGE)),
        }
    }
    Ok(runs)
}

/// Searches a range of a file in pieces that overlap; `false` when part of it cannot be read.
fn search(file: &File, (start, end): (usize, usize), needles: &Needles, mut hit: impl FnMut(usize)) -> bool {
    const PIECE: usize = 1 << 20;
    let mut readable = true;
    for from in (start..end).step_by(PIECE) {
        let mut bytes = vec![0; (end - from).min(PIECE + HALF - 1)];
        match file.read_exact_at(&mut bytes, from as u64) {
            Ok(()) => needles.find(&bytes).into_iter().for_each(|at| hit(from + at)),
            Err(_) => readable = false,
        }
    }
    readable
}

/// Counts halves of keys in a file.
pub(crate) fn file(path: &Path, needles: &Needles) -> io::Result<usize> {
    let file = File::open(path)?;
    let end = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut hits = 0;
    if search(&file, (0, end), needles, |_| hits += 1) {
        Ok(hits)
    } else {
        Err(io::Error::other("the file cannot be read to its end"))
    }
}
