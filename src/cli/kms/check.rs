//! `keyward kms check`

use keyward::kms::{CheckStep, KmsFailure, PlaceCheck};
use serde::Serialize;

use super::options::Check;
use super::service::Service;
use crate::cli::config::Config;
use crate::cli::error::Failure;
use crate::cli::kms_address::KmsAddress;
use crate::cli::open::block_on;
use crate::cli::output::print;
use crate::cli::table::{columns, printable};

/// Tries every place that keeps the master key, and prints how that went.
///
/// # Errors
/// [`Failure`]; [`Failure::Places`] after everything was printed.
pub(super) fn run(config: &Config, options: &Check) -> Result<(), Failure> {
    let places = block_on(async { Service::open(config).await?.check().await.map_err(Failure::MasterKey) })?;
    let working = places.iter().filter(|place| place.is_good()).count();
    let meaning = meaning(&config.kms, working, places.len());
    print(&if options.json { to_json(&places, working, &meaning) } else { to_text(&places, &meaning) })?;
    if working == places.len() {
        return Ok(());
    }
    let mut failures = places.iter().flat_map(|place| &place.steps).filter_map(|step| step.outcome.as_ref().err());
    let is_transient = failures.all(|failure| failure.kind.is_transient());
    Err(Failure::Places { failed: places.len() - working, all: places.len(), is_transient })
}

/// Says what it means for system keys that so many of all places work.
fn meaning(kms: &KmsAddress, working: usize, all: usize) -> String {
    match (working, least(kms)) {
        (working, _) if working == all => "System keys can be made and opened.".to_owned(),
        (0, _) => "None works: system keys cannot both be made and opened.".to_owned(),
        (working, Some(least)) if working >= least => format!(
            "{working} of {all} work: system keys can be made (min_regions = {least}), and those without the others are repaired \
             by `keyward kms repair` later."
        ),
        (working, Some(least)) => {
            let least = if least == all { "all".to_owned() } else { least.to_string() };
            format!("{working} of {all} work: system keys cannot be made with min_regions = {least}.")
        }
        (working, None) => format!("{working} of {all} work."),
    }
}

/// Returns how many places must wrap a key, where there can be several.
fn least(kms: &KmsAddress) -> Option<usize> {
    match kms {
        #[cfg(feature = "aws-kms")]
        KmsAddress::Aws(options) => Some(options.min_regions.unwrap_or(options.regions.regions().count())),
        _ => None,
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    places: Vec<Place<'a>>,
    working: usize,
    meaning: &'a str,
}

#[derive(Serialize)]
struct Place<'a> {
    place: &'a str,
    works: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    step: &'static str,
    ms: f64,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Reason<'a>>,
}

#[derive(Serialize)]
struct Reason<'a> {
    kind: &'static str,
    may_pass: bool,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl<'a> Place<'a> {
    fn new(place: &'a PlaceCheck) -> Self {
        Self { place: &place.place, works: place.is_good(), steps: place.steps.iter().map(Step::new).collect() }
    }
}

impl<'a> Step<'a> {
    fn new(step: &'a CheckStep) -> Self {
        let failure = step.outcome.as_ref().err().map(|failure| Reason {
            kind: failure.kind.as_str(),
            may_pass: failure.kind.is_transient(),
            reason: &failure.reason,
            advice: failure.advice,
        });
        Self { step: step.name, ms: ms(step), ok: failure.is_none(), failure }
    }
}

/// Milliseconds, to the microsecond.
fn ms(step: &CheckStep) -> f64 {
    (step.took.as_secs_f64() * 1e6).round() / 1e3
}

fn to_json(places: &[PlaceCheck], working: usize, meaning: &str) -> String {
    let report = Report { places: places.iter().map(Place::new).collect(), working, meaning };
    // Text, numbers and lists of them always have a JSON form.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

fn to_text(places: &[PlaceCheck], meaning: &str) -> String {
    let steps = places.iter().flat_map(|place| place.steps.iter().map(move |step| (place, step)));
    let rows = steps.map(|(place, step)| {
        let result = step.outcome.as_ref().err().map_or_else(|| "ok".to_owned(), told);
        [printable(&place.place), step.name.to_owned(), format!("{:.1}", ms(step)), printable(&result)]
    });
    format!("{}\n{meaning}\n", columns(["PLACE", "STEP", "MS", "RESULT"], rows))
}

/// Tells a failure without its place.
fn told(failure: &KmsFailure) -> String {
    let advice = failure.advice.map_or_else(String::new, |advice| format!("; {advice}"));
    format!("{} ({}){advice}", failure.kind, failure.reason)
}
