//! The most hits that any cache can have, by knowing the future.

use std::collections::BinaryHeap;

/// No later use.
const NEVER: u32 = u32::MAX;

/// Counts the hits of Belady's MIN over `keys`: what is used again last leaves, and that may be the newcomer itself.
///
/// Source: Belady, [A study of replacement algorithms](https://doi.org/10.1147/sj.52.0078).
pub(crate) fn hits(keys: &[u32], capacity: usize) -> u64 {
    let next_uses = next_uses(keys);
    // The next use of each key that is cached, or NEVER. Next uses are positions, so they name their keys.
    let mut cached_until = vec![NEVER; keys.len()];
    let mut furthest: BinaryHeap<u32> = BinaryHeap::new();
    let (mut size, mut hits) = (0, 0);
    for (at, &next) in next_uses.iter().enumerate() {
        if cached_until[at] != NEVER {
            // Its place in the heap is taken by its next use, which lies beyond all that are still to come before it.
            hits += 1;
            size -= 1;
        }
        if next == NEVER {
            continue;
        }
        cached_until[next as usize] = next;
        furthest.push(next);
        size += 1;
        if size > capacity {
            // The one furthest off is never in the past: what is in the past was smaller than this key's own next use.
            let leaves = furthest.pop().expect("the newcomer is in it");
            cached_until[leaves as usize] = NEVER;
            size -= 1;
        }
    }
    hits
}

/// Returns for each position where its key comes next.
fn next_uses(keys: &[u32]) -> Vec<u32> {
    let distinct = keys.iter().max().map_or(0, |&greatest| greatest as usize + 1);
    let mut seen_at = vec![NEVER; distinct];
    let mut next_uses = vec![NEVER; keys.len()];
    for (at, &key) in keys.iter().enumerate().rev() {
        let at_number = u32::try_from(at).expect("sequences are shorter than 2^32");
        next_uses[at] = std::mem::replace(&mut seen_at[key as usize], at_number);
    }
    next_uses
}
