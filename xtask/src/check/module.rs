//! Checks the module's crates in the form that users get: packed for a registry, documented as docs.rs does it, built
//! for other targets and by the oldest Rust, and compared with the last release. Guarantees that each crate of the
//! workspace that may be published is checked.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::list::no_target;
use super::{Check, Job, Kit, Options, Verdict, wrong};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, RUNTIME, TARGET, TEMPLATE};

/// The files that each package has beside its sources.
const FILES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// A target whose calling convention passes floating-point numbers in registers, for which [`RUNTIME`] is not built.
const HARD_FLOAT: &str = "armv7a-none-eabihf";

/// The head of the manifest of a crate that depends on all of them.
const DEPENDANT: &str = "[package]\nname = \"dependant\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n";

/// A crate that may be published, as its manifest describes it.
#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// The registries that it may go to: none if this is empty, any if it is absent.
    publish: Option<Vec<String>>,
    rust_version: Option<String>,
    description: Option<String>,
    license: Option<String>,
    readme: Option<String>,
    keywords: Vec<String>,
    categories: Vec<String>,
    metadata: Option<Metadata>,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    docs: Option<Docs>,
}

#[derive(Clone, Debug, Deserialize)]
struct Docs {
    rs: DocsRs,
}

/// The settings for docs.rs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DocsRs {
    default_target: String,
    targets: Vec<String>,
    #[serde(default)]
    features: Vec<String>,
}

/// Returns the workspace's crates that may be published, from cargo's metadata.
fn published(metadata: &[u8]) -> serde_json::Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Workspace {
        packages: Vec<Package>,
    }
    let mut packages = serde_json::from_slice::<Workspace>(metadata)?.packages;
    packages.retain(|package| package.publish.as_ref().is_none_or(|registries| !registries.is_empty()));
    Ok(packages)
}

impl Package {
    fn docs(&self) -> Option<&DocsRs> {
        Some(&self.metadata.as_ref()?.docs.as_ref()?.rs)
    }

    /// Says what the package lacks for a registry and docs.rs. `files` are the package's files, one a line.
    fn lacks(&self, files: &str) -> Vec<String> {
        let documented = self.docs().is_some_and(|docs| docs.default_target == TARGET && docs.targets == [TARGET]);
        let facts = [
            (self.description.is_some(), "no description"),
            (self.license.as_deref() == Some("MIT OR Apache-2.0"), "the licence is not MIT OR Apache-2.0"),
            (self.readme.as_deref() == Some("README.md"), "no README.md"),
            ((1..=5).contains(&self.keywords.len()), "a registry takes one to five keywords"),
            ((1..=5).contains(&self.categories.len()), "a registry takes one to five categories"),
            (documented, "docs.rs is not told to document it for the boards' target alone"),
        ];
        let lacks = facts.iter().filter(|(is_so, _)| !is_so).map(|(_, what)| format!("{}: {what}", self.name));
        let absent = FILES.iter().filter(|&&file| !files.lines().any(|line| line == file));
        lacks.chain(absent.map(|file| format!("{}: the package has no {file}", self.name))).collect()
    }
}

/// Returns the options that name the packages.
fn named<'p>(packages: impl IntoIterator<Item = &'p Package>) -> Vec<String> {
    packages.into_iter().flat_map(|package| ["--package".to_owned(), package.name.clone()]).collect()
}

pub(super) fn checks(kit: &'static Kit, options: &Options) -> Result<Vec<Check>> {
    let mut metadata = kit.toolchain.host("metadata");
    metadata.args(["--offline", "--no-deps", "--format-version", "1"]);
    let output = metadata.output().doing("cargo metadata")?;
    // The checks use the packages for as long as the process lives.
    let packages: &'static [Package] = published(&output.stdout).doing("cargo metadata")?.leak();

    let mut checks = vec![
        Check::new("module: what a registry shows", |job| shown(kit, packages, job)),
        Check::new("module: documents, as docs.rs makes them", |job| documents(kit, packages, job)).alone(),
    ];
    if !options.quick {
        checks.extend([
            Check::new("module: each package builds by itself", |job| packed(kit, packages, job)).alone(),
            Check::new(format!("module: built for {HARD_FLOAT}"), |job| hard_float(kit, packages, job)).alone(),
            Check::new("module: built by the oldest Rust", |job| by_the_oldest(kit, packages, job)).alone(),
            Check::new("module: the template boots", |job| template(kit, &project::example(TEMPLATE), "--locked", job)),
            Check::new("module: the template boots, as cargo-generate makes it", |job| generated(kit, job)),
            Check::new("module: promises since the last release", |job| promises(kit, packages, job)).alone(),
        ]);
    }
    Ok(checks)
}

fn shown(kit: &Kit, packages: &[Package], job: &mut Job) -> Result<Verdict> {
    let mut lacks = Vec::new();
    for package in packages {
        let mut list = kit.toolchain.host("package");
        list.args(["--list", "--allow-dirty", "--offline", "--package", &package.name]);
        let (_, files) = job.output(&mut list)?;
        lacks.extend(package.lacks(&files));
    }
    job.judged(&lacks)
}

/// Documents each crate with the features that docs.rs uses. Every link must lead somewhere.
fn documents(kit: &Kit, packages: &[Package], job: &mut Job) -> Result<Verdict> {
    for package in packages {
        let features = package.docs().map(|docs| docs.features.join(",")).unwrap_or_default();
        let mut doc = kit.toolchain.target("doc");
        doc.args(["--quiet", "--no-deps", "--package", &package.name, "--features", &features]);
        job.run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    Ok(Verdict::Passed(None))
}

/// Packs each crate, and builds all packages as dependencies of a crate elsewhere.
///
/// Cargo's own verification is not enough: it unpacks the packages of the other crates once, and uses these from then
/// on, whatever has changed.
fn packed(kit: &Kit, packages: &[Package], job: &mut Job) -> Result<Verdict> {
    let mut pack = kit.toolchain.host("package");
    // Uncommitted changes are checked too, and the network is not used.
    job.run(pack.args(["--quiet", "--no-verify", "--allow-dirty", "--offline"]).args(named(packages)))?;
    let mut manifest = DEPENDANT.to_owned();
    for Package { name, version, .. } in packages {
        let folder = format!("{name}-{version}");
        let packed = project::target_dir().join("package").join(format!("{folder}.crate"));
        // All times in packages are equal, so cargo would take the build of another package for this one.
        job.run(Command::new("tar").args(["--touch", "-xzf"]).arg(packed).arg("-C").arg(job.folder()))?;
        let _ = writeln!(manifest, "[dependencies.{name}]\nversion = \"={version}\"");
        let _ = writeln!(manifest, "[patch.crates-io.{name}]\npath = \"{folder}\"");
    }
    let (file, source) = (job.folder().join("Cargo.toml"), job.folder().join("lib.rs"));
    fs::write(&file, manifest).doing(file.display())?;
    fs::write(&source, "#![no_std]\n").doing(source.display())?;
    let mut build = kit.toolchain.target_in(job.folder(), "build");
    build.args(["--quiet", "--offline"]).env("CARGO_TARGET_DIR", project::target_dir().join("packed"));
    job.passes(&mut build)
}

fn hard_float(kit: &Kit, packages: &[Package], job: &mut Job) -> Result<Verdict> {
    let Some(toolchain) = kit.toolchain.for_target(HARD_FLOAT) else {
        return Ok(Verdict::Skipped(no_target(HARD_FLOAT)));
    };
    let mut build = toolchain.target("build");
    build.arg("--quiet").args(named(packages.iter().filter(|package| package.name != RUNTIME)));
    job.passes(&mut build)
}

/// Builds the crates with the Rust that their manifests name: for this machine, and for the boards if that Rust has
/// their target.
fn by_the_oldest(kit: &Kit, packages: &[Package], job: &mut Job) -> Result<Verdict> {
    let versions: Vec<_> = packages.iter().filter_map(|package| package.rust_version.as_deref()).collect();
    let Some(&oldest) = versions.first().filter(|first| versions.iter().all(|version| version == *first)) else {
        return Ok(Verdict::Failed(format!("not one rust-version for all: {versions:?}")));
    };
    let Some(toolchain) = kit.toolchain.of_version(oldest) else {
        return Ok(Verdict::Skipped(format!("Rust {oldest} is not here: rustup toolchain install {oldest}")));
    };
    let mut build = toolchain.host("check");
    build
        .args(["--quiet", "--locked"])
        .args(named(packages))
        .env("CARGO_TARGET_DIR", project::target_dir().join("oldest"));
    job.run(&mut build)?;
    let Some(for_boards) = toolchain.for_target(TARGET) else {
        return Ok(Verdict::Passed(Some(format!("Rust {oldest}, for this machine alone: it has no {TARGET}"))));
    };
    let mut build = for_boards.target("check");
    build
        .args(["--quiet", "--locked"])
        .args(named(packages))
        .env("CARGO_TARGET_DIR", project::target_dir().join("oldest"));
    job.run(&mut build)?;
    Ok(Verdict::Passed(Some(format!("Rust {oldest}"))))
}

/// The most lines that the template's kernel has.
const TEMPLATE_LINES: usize = 60;

/// Runs the template that a newcomer copies, as its README says.
fn template(kit: &Kit, folder: &Path, lock: &str, job: &mut Job) -> Result<Verdict> {
    let main = folder.join("src/main.rs");
    let count = fs::read_to_string(&main).doing(main.display())?.lines().count();
    let mut run = kit.toolchain.target_in(folder, "run");
    run.args(["--quiet", lock]).env("CARGO_TARGET_DIR", project::examples_target_dir());
    let (exit, output) = job.output(&mut run)?;
    let lines = ["the camera may write to 0x????????", "the first bytes are [0, 0, 0, 0]"];
    let mut wrong = wrong(exit, &output, 0, &lines.map(str::to_owned));
    if count > TEMPLATE_LINES {
        wrong.push(format!("the kernel has {count} lines, and its README says {TEMPLATE_LINES} at most"));
    }
    job.judged(&wrong)
}

/// Runs the kernel that `cargo generate` makes from the template elsewhere.
fn generated(kit: &Kit, job: &mut Job) -> Result<Verdict> {
    let generate = || Command::new("cargo-generate");
    if !generate().args(["generate", "--version"]).output().is_ok_and(|output| output.status.success()) {
        let remedy = "cargo install --locked cargo-generate";
        return Ok(Verdict::Skipped(format!("cargo-generate is not here: {remedy}")));
    }
    let carveout = format!("carveout={}", project::root().display());
    let mut made = generate();
    made.args(["generate", "--silent", "--vcs", "none", "--name", "my-kernel", "--define", &carveout, "--path"]);
    job.run(made.arg(project::example(TEMPLATE)).arg("--destination").arg(job.folder()))?;
    // The lock file names the template.
    template(kit, &job.folder().join("my-kernel"), "--offline", job)
}

// --- promises -------------------------------------------------------------------------------------------------------

/// Compares the crates' public items with the last release that has a tag in git. A break needs a new version.
fn promises(kit: &Kit, packages: &[Package], job: &mut Job) -> Result<Verdict> {
    let git = || {
        let mut git = Command::new("git");
        git.arg("-C").arg(project::root());
        git
    };
    let last = git().args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]).output();
    let tag = last.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if tag.is_empty() {
        return Ok(Verdict::Skipped("git has no tag of a release (v0.1.0)".to_owned()));
    }
    let compare = || {
        let mut compare = Command::new("cargo-semver-checks");
        compare.arg("semver-checks");
        compare
    };
    if !compare().arg("--version").output().is_ok_and(|output| output.status.success()) {
        let remedy = "cargo install --locked cargo-semver-checks";
        return Ok(Verdict::Skipped(format!("cargo-semver-checks is not here: {remedy}")));
    }
    let (release, archive) = (job.folder().join("release"), job.folder().join("release.tar"));
    fs::create_dir(&release).doing(release.display())?;
    job.run(git().args(["archive", "--output"]).arg(&archive).arg(&tag))?;
    job.run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&release))?;
    let mut compared = 0;
    for package in packages {
        let Some(was) = exports(kit, &release, package, "was", job)? else {
            job.say(&format!("{}: not in {tag}", package.name))?;
            continue;
        };
        let is = exports(kit, project::root(), package, "is", job)?
            .ok_or_else(|| Failure::new(format!("{}: rustdoc wrote no JSON", package.name)))?;
        job.run(compare().arg("--baseline-rustdoc").arg(was).arg("--current-rustdoc").arg(is))?;
        compared += 1;
    }
    Ok(Verdict::Passed(Some(format!("{compared} crates, with {tag}"))))
}

/// Returns rustdoc's JSON of a crate of a checkout, or `None` if the checkout has no such crate.
fn exports(kit: &Kit, checkout: &Path, package: &Package, name: &str, job: &mut Job) -> Result<Option<PathBuf>> {
    let mut id = kit.toolchain.cargo_in(checkout);
    let (exit, _) = job.output(id.args(["pkgid", "--offline", "--package", &package.name]))?;
    if exit != 0 {
        return Ok(None);
    }
    let folder = project::target_dir().join("promises");
    let mut rustdoc = kit.toolchain.target_in(checkout, "rustdoc");
    rustdoc.args([
        "--quiet",
        "--package",
        &package.name,
        "--lib",
        "--",
        "-Zunstable-options",
        "--output-format",
        "json",
    ]);
    job.run(rustdoc.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &folder))?;
    let made = folder.join(TARGET).join("doc").join(format!("{}.json", package.name.replace('-', "_")));
    let kept = job.folder().join(format!("{}-{name}.json", package.name));
    fs::copy(&made, &kept).doing(made.display())?;
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"packages":[
        {"name":"a","version":"0.1.0","publish":null,"rust_version":"1.95","description":"It allocates","license":"MIT OR Apache-2.0",
         "readme":"README.md","keywords":["dma"],"categories":["embedded"],
         "metadata":{"docs":{"rs":{"default-target":"armv7a-none-eabi","targets":["armv7a-none-eabi"]}}}},
        {"name":"b","version":"0.1.0","publish":[],"rust_version":null,"description":null,"license":null,"readme":null,"keywords":[],
         "categories":[],"metadata":null}]}"#;

    #[test]
    fn what_is_kept_from_registries_is_not_looked_at() {
        let packages = published(ONE.as_bytes()).unwrap();
        assert_eq!(packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn what_a_registry_lacks_is_named() {
        let package = published(ONE.as_bytes()).unwrap().remove(0);
        let files = "Cargo.toml\nLICENSE-APACHE\nLICENSE-MIT\nREADME.md\nsrc/lib.rs\n";
        assert_eq!(package.lacks(files), [""; 0]);
        assert_eq!(package.lacks("LICENSE-APACHE\nREADME.md\n"), ["a: the package has no LICENSE-MIT"]);
        let bare = Package { keywords: vec![], metadata: None, ..package };
        assert_eq!(
            bare.lacks(files),
            [
                "a: a registry takes one to five keywords",
                "a: docs.rs is not told to document it for the boards' target alone"
            ]
        );
    }

    #[test]
    fn an_option_of_docs_rs_that_nobody_builds_with_is_refused() {
        let more = ONE.replace(r#""targets":"#, r#""all-features":true,"targets":"#);
        assert!(published(more.as_bytes()).unwrap_err().to_string().contains("all-features"));
    }
}
