//! Servers written in Java: their jars come from Maven Central, with all that they need when they run.
//!
//! ```text
//!  CACHE/jars/NAME-SUM/lib/*.jar         SUM: of the packages' coordinates; the folder has this name only when it is whole
//!  CACHE/jars/NAME-SUM/CLASS-SUM/        a launcher of our own, compiled against those jars; SUM: of its source
//! ```
//!
//! Nothing of a package is in this repository: it is fetched when a test or a user first asks for the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process::run;
use crate::sum;

/// How long such a server may take to answer: where several start at once on a busy machine, minutes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How long one try of a download may take. One that only hangs is begun again, and goes on with what is already there.
const DOWNLOAD: Duration = Duration::from_secs(540);
const TRIES: u32 = 3;

/// Group, name and version of a package.
pub(crate) type Coordinates = (&'static str, &'static str, &'static str);

/// The jars of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jars {
    /// What its folder is called.
    pub name: &'static str,
    /// What is asked for; what these need comes with them.
    pub packages: &'static [Coordinates],
}

/// A class with a `main`, for servers that don't come with one that listens on 127.0.0.1 only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launcher {
    /// Name of the class.
    pub class: &'static str,
    /// Its source.
    pub source: &'static str,
}

impl Jars {
    /// Makes sure that java, the jars and the compiled launcher are there.
    ///
    /// # Errors
    /// Where they can't be had; the message says how to get them.
    pub fn install(&self, launcher: Option<&Launcher>) -> Result<()> {
        packages::provide(&[("java", "default-jre-headless")])?;
        let dir = self.dir()?;
        let parent = dir.parent().context("the cache folder has a parent")?;
        crate::make(parent)?;
        let lock = fs::File::create(parent.join(format!("{}.lock", self.name))).context("creating a lock file")?;
        lock.lock().context("locking the download")?;
        if !dir.is_dir() {
            packages::provide(&[("mvn", "maven")])?;
            self.download(&dir)?;
        }
        let Some(launcher) = launcher else { return Ok(()) };
        let classes = classes(&dir, launcher);
        if classes.is_dir() {
            return Ok(());
        }
        packages::provide(&[("javac", "default-jdk-headless")])?;
        let unfinished = classes.with_extension("unfinished");
        crate::empty(&unfinished)?;
        let source = unfinished.join(format!("{}.java", launcher.class));
        fs::write(&source, launcher.source).context("writing a launcher's source")?;
        run(Command::new("javac").args(["-nowarn", "-cp"]).arg(jars_of(&dir)).arg("-d").arg(&unfinished).arg(&source))?;
        fs::rename(&unfinished, &classes).context("renaming the compiled launcher")
    }

    /// Where the jars and launchers are.
    ///
    /// # Errors
    /// Where there is no place for the cache.
    pub fn place(&self) -> Result<Place> {
        self.dir().map(Place)
    }

    fn dir(&self) -> Result<PathBuf> {
        let sum = sum(self.packages.iter().flat_map(|(group, name, version)| [*group, *name, *version]));
        Ok(packages::cache()?.join("jars").join(format!("{}-{sum}", self.name)))
    }

    fn download(&self, dir: &Path) -> Result<()> {
        let unfinished = dir.with_extension("unfinished");
        crate::empty(&unfinished)?;
        let pom = unfinished.join("pom.xml");
        fs::write(&pom, self.pom()).context("writing a pom")?;
        let log = unfinished.join("log");
        for turn in 1..=TRIES {
            let lib = unfinished.join("lib");
            crate::empty(&lib)?;
            eprintln!("$ mvn dependency:copy-dependencies  # {} (try {turn} of {TRIES})", self.name);
            let mut command = Command::new("mvn");
            command
                .args(["-B", "-q", "-Dmaven.artifact.threads=8", "-DincludeScope=runtime"])
                .arg("-f")
                .arg(&pom)
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", lib.display()));
            match within(&mut command, &log, DOWNLOAD)? {
                true => return fs::rename(&unfinished, dir).context("renaming the downloaded jars"),
                false => eprintln!("the download failed or took longer than {DOWNLOAD:?}"),
            }
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        bail!("the jars of {} could not be downloaded by mvn, {TRIES} times; the last said:\n{said}", self.name)
    }

    fn pom(&self) -> String {
        let mut text = format!(
            "<project>\n  <modelVersion>4.0.0</modelVersion>\n  <groupId>forebay</groupId>\n  \
             <artifactId>{}</artifactId>\n  <version>1</version>\n  <dependencies>\n",
            self.name
        );
        for (group, name, version) in self.packages {
            text += &format!(
                "    <dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>\n"
            );
        }
        text + "  </dependencies>\n</project>\n"
    }
}

/// A folder of jars.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// The jar whose name begins so.
    ///
    /// # Errors
    /// Where there is none.
    pub fn jar(&self, prefix: &str) -> Result<PathBuf> {
        let lib = self.0.join("lib");
        let files = fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
        let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        paths.find(named).with_context(|| format!("{} has no {prefix}*.jar", lib.display()))
    }

    /// `java` with its memory, temporary files, class path and, at the end, the class: the caller adds its arguments.
    #[must_use]
    pub fn command(&self, jvm: &Jvm<'_>) -> Command {
        let mut path = std::ffi::OsString::new();
        for folder in jvm.first.iter().cloned().chain(jvm.launcher.map(|launcher| classes(&self.0, launcher))) {
            path.push(folder);
            path.push(":");
        }
        path.push(jars_of(&self.0));
        let mut command = Command::new("java");
        command
            .arg(format!("-Xms{}m", jvm.heap_mib / 4))
            .arg(format!("-Xmx{}m", jvm.heap_mib))
            // For a server that lives for one test, an early start is worth more than speed in an hour.
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError"])
            .arg("-Djava.net.preferIPv4Stack=true")
            .arg(format!("-Djava.io.tmpdir={}", jvm.temp.display()))
            .args(jvm.options)
            .arg("-cp")
            .arg(path)
            .arg(jvm.class);
        command
    }
}

/// How a server's virtual machine is started.
#[derive(Debug)]
pub(crate) struct Jvm<'a> {
    /// Most of its heap, MiB.
    pub heap_mib: u32,
    /// Its folder for temporary files.
    pub temp: &'a Path,
    /// Further options.
    pub options: &'a [String],
    /// Folders that come first on its class path.
    pub first: &'a [PathBuf],
    /// Its launcher, where it needs one.
    pub launcher: Option<&'a Launcher>,
    /// The class with `main`.
    pub class: &'a str,
}

/// Options that open packages of `java.base` to code that was written before they were closed.
pub(crate) fn opened(packages: &[&str]) -> Vec<String> {
    packages.iter().map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")).collect()
}

fn jars_of(dir: &Path) -> PathBuf {
    dir.join("lib").join("*")
}

fn classes(dir: &Path, launcher: &Launcher) -> PathBuf {
    dir.join(format!("{}-{}", launcher.class, sum([launcher.source])))
}

/// Runs a command with what it prints in `log`; false where it fails or does not end in time.
fn within(command: &mut Command, log: &Path, limit: Duration) -> Result<bool> {
    let out = fs::File::create(log).context("creating a log file")?;
    let err = out.try_clone().context("duplicating a file")?;
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let mut child: Child = command.spawn().with_context(|| format!("starting {program}"))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("waiting for {program}"))? {
            return Ok(status.success());
        }
        if start.elapsed() > limit {
            // A failure here means that it has just ended.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_another_folder() {
        let one = Jars { name: "x", packages: &[("g", "a", "1")] };
        let two = Jars { name: "x", packages: &[("g", "a", "2")] };
        let three = Jars { name: "x", packages: &[("ga", "", "1")] };
        assert_ne!(one.dir().unwrap(), two.dir().unwrap());
        assert_ne!(one.dir().unwrap(), three.dir().unwrap());
        assert!(one.pom().contains("<groupId>g</groupId><artifactId>a</artifactId><version>1</version>"));
    }

    #[test]
    fn a_download_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let hanging = within(Command::new("sleep").arg("1000"), &log, Duration::from_millis(100));
        assert!(!hanging.unwrap());
        assert!(!within(&mut Command::new("false"), &log, Duration::from_secs(60)).unwrap());
        assert!(within(Command::new("echo").arg("said"), &log, Duration::from_secs(60)).unwrap());
        assert_eq!(fs::read_to_string(&log).unwrap(), "said\n");
    }
}
