//! Tells the command its version: that of the package, and the commit it was built from where that is known.

use std::path::Path;
use std::process::Command;

const COMMIT: &str = "KEYWARD_COMMIT";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let version = env!("CARGO_PKG_VERSION");
    let given = std::env::var(COMMIT).ok().map(|commit| commit.trim().to_owned()).filter(|commit| !commit.is_empty());
    match given.or_else(commit_of_this_folder) {
        Some(commit) => println!("cargo:rustc-env=KEYWARD_VERSION={version} ({commit})"),
        None => println!("cargo:rustc-env=KEYWARD_VERSION={version}"),
    }
}

/// Asks git, unless this folder is a copy inside somebody else's repository.
fn commit_of_this_folder() -> Option<String> {
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists() {
        return None;
    }
    // A commit changes the file of the branch, or the log of HEAD where branches are packed.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // A file that does not exist would have this script run at every build.
        if let Some(file) = git(&["rev-parse", "--git-path", name]).filter(|file| Path::new(file).exists()) {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}
