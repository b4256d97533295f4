//! The users file: one user a line, `name:$argon2id$…`. Empty lines and lines that begin with `#` are left alone.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytestring::ByteString;

use super::fault::{AccessError, Fault, Faults, column, text_of};
use super::password::{Cost, Hash, HashError};

/// Largest users file, bytes.
pub(crate) const USERS_BYTES_MAX: u64 = 64 << 20;
/// Longest user name: MQTT's limit of strings, bytes.
const NAME_BYTES_MAX: usize = 65_535;

/// Why a text can't be a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("a user name can't be empty")]
    Empty,
    /// Too long.
    #[error("a user name has at most 65535 bytes")]
    TooLong,
    /// `:` ends a name in the users file.
    #[error("a user name can't contain `:`")]
    Colon,
    /// `#` begins a comment in the users file.
    #[error("a user name can't begin with `#`")]
    Comment,
    /// White space at its ends can't be seen.
    #[error("a user name can't begin or end with white space")]
    Space,
    /// Line ends and the like.
    #[error("a user name can't contain control characters")]
    Control,
}

/// Checks a user's name.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_user_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > NAME_BYTES_MAX {
        Err(NameError::TooLong)
    } else if name.contains(':') {
        Err(NameError::Colon)
    } else if name.starts_with('#') {
        Err(NameError::Comment)
    } else if name.trim() != name {
        Err(NameError::Space)
    } else if name.chars().any(char::is_control) {
        Err(NameError::Control)
    } else {
        Ok(())
    }
}

/// Users and their hashes.
#[derive(Clone, Debug, Default)]
pub struct Users {
    by_name: HashMap<ByteString, Arc<Hash>>,
    usual_cost: Cost,
}

impl Users {
    /// Reads the text of a users file. Two lines of one name are a fault.
    ///
    /// # Errors
    /// The faults with their places, at most twenty.
    pub fn parse(path: &Path, text: &str) -> Result<Users, Vec<Fault>> {
        let mut faults = Faults::of(path);
        let mut users = Users::default();
        let mut costs: HashMap<Cost, usize> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some((name, rest)) = (match entry(line) {
                Ok(entry) => entry,
                Err(message) => {
                    faults.add(number, 1, message);
                    continue;
                }
            }) else {
                continue;
            };
            match Hash::parse(rest.trim_end()) {
                Ok(hash) => {
                    *costs.entry(hash.cost()).or_default() += 1;
                    if users.by_name.insert(name.into(), Arc::new(hash)).is_some() {
                        faults.add(number, 1, format!("user `{name}` stands here a second time"));
                    }
                }
                Err(error) => faults.add(number, column(line, name.len() + 1), error.to_string()),
            }
        }
        if let Some((cost, _)) = costs.into_iter().max_by_key(|(cost, n)| (*n, cost.memory_kib, cost.passes)) {
            users.usual_cost = cost;
        }
        faults.or(users)
    }

    pub(crate) fn read(path: &Path) -> Result<Users, AccessError> {
        let bytes = read(path, USERS_BYTES_MAX, "; make it with `forebay user add`")?;
        let text = text_of(path, bytes).map_err(AccessError::Faults)?;
        Users::parse(path, &text).map_err(AccessError::Faults)
    }

    /// A user's hash.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Hash>> {
        self.by_name.get(name)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// What verifying costs for most of them.
    pub(crate) fn usual_cost(&self) -> Cost {
        self.usual_cost
    }

    /// Their names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }
}

/// Name and hash of a line; `None` where it has none.
fn entry(line: &str) -> Result<Option<(&str, &str)>, String> {
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, hash) = line.split_once(':').ok_or("a line is `name:hash`, and here is no `:`")?;
    check_user_name(name).map_err(|error| error.to_string())?;
    Ok(Some((name, hash)))
}

/// Reads a file of bounded size.
pub(crate) fn read(path: &Path, max: u64, remedy: &'static str) -> Result<Vec<u8>, AccessError> {
    use std::io::Read as _;
    let failed = |source: io::Error| {
        let remedy = if source.kind() == io::ErrorKind::NotFound { remedy } else { "" };
        AccessError::Read { path: path.to_owned(), source, remedy }
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(failed(io::Error::other(format!("it is larger than {max} bytes"))));
    }
    Ok(bytes)
}

/// Why a users file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It can't be read, or has faults.
    #[error(transparent)]
    Unreadable(#[from] AccessError),
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The password could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The password is empty.
    #[error("a password can't be empty")]
    EmptyPassword,
    /// There is such a user.
    #[error("there is a user `{0}` already; `forebay user passwd` changes a password")]
    Exists(String),
    /// There is no such user.
    #[error("there is no user `{0}`")]
    Unknown(String),
    /// It can't be written.
    #[error("{path} can't be written: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// A users file that is changed: one change at a time, also between processes, and in one step: a reader finds the old file or the
/// new one, and after a loss of power there is one of them.
#[derive(Clone, Debug)]
pub struct UsersFile {
    path: PathBuf,
    cost: Cost,
}

impl UsersFile {
    /// The file at this path; it need not exist before the first user is added.
    pub fn new(path: impl Into<PathBuf>) -> UsersFile {
        UsersFile { path: path.into(), cost: Cost::default() }
    }

    /// The same file; new hashes get this cost.
    #[must_use]
    pub fn with_cost(self, cost: Cost) -> UsersFile {
        UsersFile { cost, ..self }
    }

    /// The users in it.
    ///
    /// # Errors
    /// It can't be read, or has faults.
    pub fn users(&self) -> Result<Users, UsersError> {
        Ok(Users::read(&self.path)?)
    }

    /// Adds a user; makes the file where there is none. Durable when it returns.
    ///
    /// # Errors
    /// There is one of this name, the name or password is none, or the file can't be read or written.
    pub fn add(&self, name: &str, password: &[u8]) -> Result<(), UsersError> {
        let hash = self.hash(name, password)?;
        self.change(
            |users| if users.get(name).is_some() { Err(UsersError::Exists(name.to_owned())) } else { Ok(()) },
            name,
            Some(&hash),
        )
    }

    /// Gives a user another password. Durable when it returns.
    ///
    /// # Errors
    /// As [`UsersFile::add`]; there is no such user.
    pub fn set_password(&self, name: &str, password: &[u8]) -> Result<(), UsersError> {
        let hash = self.hash(name, password)?;
        self.change(|users| known(users, name), name, Some(&hash))
    }

    /// Removes a user. Durable when it returns.
    ///
    /// # Errors
    /// There is no such user, or the file can't be read or written.
    pub fn remove(&self, name: &str) -> Result<(), UsersError> {
        self.change(|users| known(users, name), name, None)
    }

    fn hash(&self, name: &str, password: &[u8]) -> Result<Hash, UsersError> {
        check_user_name(name)?;
        if password.is_empty() {
            return Err(UsersError::EmptyPassword);
        }
        Ok(Hash::of(password, self.cost)?)
    }

    /// Replaces, appends or removes a user's line. All other lines stay as they are.
    fn change(
        &self,
        allowed: impl FnOnce(&Users) -> Result<(), UsersError>,
        name: &str,
        hash: Option<&Hash>,
    ) -> Result<(), UsersError> {
        let failed = |source: io::Error| UsersError::Write { path: self.path.clone(), source };
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        // The folder is locked and not the file: that one is replaced.
        folder.lock().map_err(failed)?;
        let text = match read(&self.path, USERS_BYTES_MAX, "") {
            Ok(bytes) => text_of(&self.path, bytes).map_err(AccessError::Faults)?,
            Err(AccessError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        allowed(&Users::parse(&self.path, &text).map_err(AccessError::Faults)?)?;
        self.replace(&changed(&text, name, hash)).map_err(failed)?;
        folder.sync_all().map_err(failed)
    }

    /// Writes the file anew beside the old one, with its owner and for his eyes only, and puts it in its place.
    fn replace(&self, text: &str) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(format!(".new-{}", std::process::id()));
        let new = PathBuf::from(new);
        let write = || {
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            if let Ok(old) = fs::metadata(&self.path) {
                let own = file.metadata()?;
                if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&new)))
    }
}

fn known(users: &Users, name: &str) -> Result<(), UsersError> {
    if users.get(name).is_some() { Ok(()) } else { Err(UsersError::Unknown(name.to_owned())) }
}

fn changed(text: &str, name: &str, hash: Option<&Hash>) -> String {
    let line = hash.map(|hash| format!("{name}:{}\n", hash.text()));
    let mut out = String::with_capacity(text.len() + line.as_ref().map_or(0, String::len) + 1);
    let mut written = false;
    for old in text.split_inclusive('\n') {
        let is_his = entry(old.trim_end_matches(['\n', '\r'])).is_ok_and(|entry| entry.is_some_and(|(n, _)| n == name));
        if is_his {
            out.push_str(line.as_deref().unwrap_or_default());
            written = true;
        } else {
            out.push_str(old);
            if !old.ends_with('\n') {
                out.push('\n');
            }
        }
    }
    if !written {
        out.push_str(line.as_deref().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn users_are_added_changed_and_removed_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let file = UsersFile::new(&path).with_cost(CHEAP);
        assert!(matches!(file.users(), Err(UsersError::Unreadable(AccessError::Read { .. }))));
        file.add("anna", b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // What people do to such a file: comments, empty lines, no line end, an open mode.
        let text = format!("# ours\n\n{}", fs::read_to_string(&path).unwrap().trim_end());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        file.add("bob é", b"two").unwrap();
        assert!(matches!(file.add("anna", b"x"), Err(UsersError::Exists(_))));
        file.set_password("anna", b"three").unwrap();
        let users = file.users().unwrap();
        assert_eq!(users.names(), ["anna", "bob é"]);
        assert!(users.get("anna").unwrap().verifies(b"three") && users.get("bob é").unwrap().verifies(b"two"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ours\n\nanna:$argon2id$"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        file.remove("anna").unwrap();
        assert!(matches!(file.remove("anna"), Err(UsersError::Unknown(_))));
        assert!(matches!(file.set_password("anna", b"x"), Err(UsersError::Unknown(_))));
        assert_eq!(file.users().unwrap().names(), ["bob é"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path().join("users")).with_cost(CHEAP);
        for name in ["", "a:b", "#a", " a", "a ", "a\nroot:x", "a\0"] {
            assert!(matches!(file.add(name, b"x"), Err(UsersError::Name(_))), "{name:?}");
        }
        assert!(matches!(file.add("a", b""), Err(UsersError::EmptyPassword)));
    }

    #[test]
    fn every_fault_has_its_place_and_a_file_with_faults_is_not_changed() {
        let good = Hash::of(b"x", CHEAP).unwrap();
        let text = format!("a:{0}\nno colon\nb:$argon2i$x\na:{0}\r\n", good.text());
        let faults = Users::parse(Path::new("u"), &text).unwrap_err();
        let places: Vec<_> = faults.iter().map(|fault| (fault.line, fault.column)).collect();
        assert_eq!(places, [(2, 1), (3, 3), (4, 1)], "{faults:?}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, &text).unwrap();
        assert!(UsersFile::new(&path).with_cost(CHEAP).add("c", b"x").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        fs::write(&path, b"a\nb\xff").unwrap();
        let error = UsersFile::new(&path).users().unwrap_err().to_string();
        assert!(error.ends_with("users:2:2: this is no UTF-8"), "{error}");
    }

    #[test]
    fn changes_of_several_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path().join("users")).with_cost(CHEAP);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let file = &file;
                scope.spawn(move || file.add(&format!("u{n}"), b"x").unwrap());
            }
        });
        assert_eq!(file.users().unwrap().len(), 8);
    }
}
