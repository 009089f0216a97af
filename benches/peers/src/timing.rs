//! Rounds that take turns, and their medians.

use std::time::Duration;

const ROUNDS: usize = 15;
const ROUND_LENGTH: Duration = Duration::from_millis(20);

/// Runs one operation a number of times and tells how long that took.
pub(crate) type Case<'a> = Box<dyn FnMut(u32) -> anyhow::Result<Duration> + 'a>;

/// Returns the median nanoseconds per operation of both cases.
pub(crate) fn compare(mut ours: Case<'_>, mut theirs: Case<'_>) -> anyhow::Result<(f64, f64)> {
    let (our_count, their_count) = (calibrate(&mut ours)?, calibrate(&mut theirs)?);
    let (mut our_rounds, mut their_rounds) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            our_rounds.push(per_operation(&mut ours, our_count)?);
            their_rounds.push(per_operation(&mut theirs, their_count)?);
        } else {
            their_rounds.push(per_operation(&mut theirs, their_count)?);
            our_rounds.push(per_operation(&mut ours, our_count)?);
        }
    }
    Ok((median(our_rounds), median(their_rounds)))
}

/// Finds how many operations fill a round; warms the case up on the way.
pub(crate) fn calibrate(case: &mut Case<'_>) -> anyhow::Result<u32> {
    let mut count = 1;
    loop {
        let took = case(count)?;
        if took * 4 >= ROUND_LENGTH {
            let ratio = ROUND_LENGTH.as_secs_f64() / took.as_secs_f64();
            return Ok(((f64::from(count) * ratio) as u32).max(1));
        }
        count *= 2;
    }
}

pub(crate) fn per_operation(case: &mut Case<'_>, count: u32) -> anyhow::Result<f64> {
    Ok(case(count)?.as_nanos() as f64 / f64::from(count))
}

pub(crate) fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}
