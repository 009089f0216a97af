//! Go's secrets, measured by Go's own benchmarks in `go/`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

/// The benchmarks, built.
pub(crate) struct Go {
    program: PathBuf,
}

impl Go {
    /// Builds them; `None` where there is no Go.
    pub(crate) fn build() -> anyhow::Result<Option<Self>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
        let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/go-secrets"));
        let built = Command::new("go").current_dir(folder).args(["test", "-c", "-o"]).arg(&program).status();
        match built {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            built => {
                anyhow::ensure!(built?.success(), "the Go benchmarks do not build");
                Ok(Some(Self { program }))
            }
        }
    }

    /// Runs each benchmark once and returns nanoseconds per operation by name, without the prefix.
    pub(crate) fn run(&self) -> anyhow::Result<HashMap<String, f64>> {
        let arguments = ["-test.run=xxx", "-test.bench=.", "-test.benchtime=100ms", "-test.cpu=2"];
        let output = Command::new(&self.program).args(arguments).output()?;
        anyhow::ensure!(output.status.success(), "the Go benchmarks failed");
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("Benchmark"));
        lines
            .map(|line| {
                let mut words = line.split_whitespace();
                let name = words.next().and_then(|name| name.rsplit_once('-')).context("a benchmark without a name")?.0;
                let time = words.nth(1).context("a benchmark without a time")?;
                Ok((name.to_owned(), time.parse()?))
            })
            .collect()
    }
}
