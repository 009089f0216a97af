//! Go's side: its benchmarks, built once, and run for so many operations as a case.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, ensure};

use crate::Case;

pub struct Go {
    benchmarks: PathBuf,
}

impl Go {
    /// Builds the benchmarks; `None` when there is no Go.
    pub fn build() -> anyhow::Result<Option<Self>> {
        let benchmarks = env::current_exe()?.with_file_name("go-secret-memory");
        let built = Command::new("go")
            .args(["test", "-c", "-o"])
            .arg(&benchmarks)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go"))
            .status();
        match built {
            Ok(status) => {
                ensure!(status.success(), "go test: {status}");
                Ok(Some(Self { benchmarks }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("go cannot be run"),
        }
    }

    /// One benchmark of one kind of secret; each run is a process of its own, whose start does not count.
    pub fn case(&self, benchmark: &'static str, kind: &'static str) -> Case<'_> {
        Box::new(move |count| {
            let output = Command::new(&self.benchmarks)
                .args(["-test.run", "^$", "-test.cpu", "2"])
                .args(["-test.bench", &format!("^Benchmark{benchmark}$/^{kind}$")])
                .args(["-test.benchtime", &format!("{count}x")])
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{benchmark} {kind}: {}\n{text}", output.status);
            let nanoseconds =
                nanoseconds(&text).with_context(|| format!("{benchmark} {kind} measured nothing:\n{text}"))?;
            Ok(Duration::from_secs_f64(nanoseconds * f64::from(count) / 1e9))
        })
    }
}

/// Finds the number before `ns/op`.
fn nanoseconds(text: &str) -> Option<f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).find(|pair| pair[1] == "ns/op").and_then(|pair| pair[0].parse().ok())
}
