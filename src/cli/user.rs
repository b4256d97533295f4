//! `forebay user …`: the users file.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use forebay_broker_adapter::access::{UsersError, UsersFile, check_user_name};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::{Options, UserCommand, check};
use crate::exit::{Exit, Failure};

/// Longest password: MQTT's limit, bytes.
const PASSWORD_BYTES_MAX: usize = 65_535;

/// Where a password comes from. Never an argument: every user of the machine sees those.
#[derive(Clone, Debug, Args)]
pub struct PasswordFrom {
    /// A file whose first line is the password; `-` is the standard input. Without it the terminal is asked, or, where there is none,
    /// the standard input.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Runs `forebay user …`.
///
/// # Errors
/// Where there is no users file, no such user or no password, or the file can't be read or written.
pub fn run(options: &Options, users: Option<&Path>, what: &UserCommand) -> Result<(), Failure> {
    let path = match users {
        Some(path) => path.to_owned(),
        None => check::settings(options)?.settings.access.users.ok_or_else(|| {
            Failure::new(Exit::Usage, "there is no users file: set `access.users`, or name one with --users")
        })?,
    };
    let file = UsersFile::new(&path);
    let (done, name) = match what {
        UserCommand::Add { name, password } => {
            check_user_name(name).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
            file.add(name, &password.read()?).map_err(|error| failed(&error))?;
            ("added", name)
        }
        UserCommand::Passwd { name, password } => {
            if file.users().map_err(|error| failed(&error))?.get(name).is_none() {
                return Err(failed(&UsersError::Unknown(name.clone())));
            }
            file.set_password(name, &password.read()?).map_err(|error| failed(&error))?;
            ("changed", name)
        }
        UserCommand::Rm { name } => {
            file.remove(name).map_err(|error| failed(&error))?;
            ("removed", name)
        }
        UserCommand::List => {
            for name in file.users().map_err(|error| failed(&error))?.names() {
                if options.json {
                    println!("{}", serde_json::json!({ "user": name }));
                } else {
                    println!("{name}");
                }
            }
            return Ok(());
        }
    };
    if options.json {
        println!("{}", serde_json::json!({ "user": name, "done": done, "file": path.display().to_string() }));
    } else {
        println!("user {name} {done} ({})", path.display());
    }
    Ok(())
}

fn failed(error: &UsersError) -> Failure {
    let exit = match error {
        UsersError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => Exit::DiskFull,
        UsersError::Name(_) | UsersError::EmptyPassword => Exit::Usage,
        _ => Exit::Failure,
    };
    Failure::new(exit, error.to_string())
}

impl PasswordFrom {
    fn read(&self) -> Result<Vec<u8>, Failure> {
        match &self.password_file {
            Some(path) if path.as_os_str() != "-" => {
                let file = File::open(path).map_err(|source| Failure::io(path.display(), &source))?;
                first_line(file, &path.display().to_string())
            }
            None if io::stdin().is_terminal() => ask_twice(),
            _ => first_line(io::stdin(), "the standard input"),
        }
    }
}

fn first_line(from: impl io::Read, what: &str) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    let mut from = BufReader::new(from.take(PASSWORD_BYTES_MAX as u64 + 2));
    from.read_until(b'\n', &mut line).map_err(|source| Failure::io(what, &source))?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    if line.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("the first line of {what} is empty: it has to be the password")));
    }
    if line.len() > PASSWORD_BYTES_MAX {
        return Err(Failure::new(Exit::Usage, format!("{what}: a password has at most {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(line)
}

fn ask_twice() -> Result<Vec<u8>, Failure> {
    let first = ask("Password: ")?;
    if first.is_empty() {
        return Err(Failure::new(Exit::Usage, "a password can't be empty"));
    }
    if ask("The same again: ")? != first {
        return Err(Failure::new(Exit::Usage, "the two are not the same: nothing was changed"));
    }
    Ok(first)
}

/// The terminal without echo; as it was when this is dropped.
struct Silent {
    terminal: io::Stdin,
    before: Termios,
}

impl Silent {
    fn new() -> io::Result<Silent> {
        let terminal = io::stdin();
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        // Ctrl-C comes as a character too, so that the program does not end with a terminal that echoes nothing.
        silent.local_modes &= !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Silent { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        eprintln!();
    }
}

fn ask(prompt: &str) -> Result<Vec<u8>, Failure> {
    let failed = |source: io::Error| Failure::io("reading the password", &source);
    // Before the prompt: what is typed once it is there is not seen.
    let silent = Silent::new().map_err(failed)?;
    eprint!("{prompt}");
    io::stderr().flush().map_err(failed)?;
    let mut line: Vec<u8> = Vec::new();
    for byte in silent.terminal.lock().bytes() {
        match byte.map_err(failed)? {
            b'\n' | b'\r' => return Ok(line),
            0x03 | 0x04 => return Err(Failure::new(Exit::Failure, "interrupted: nothing was changed")),
            // Ctrl-U takes all of it back, backspace one character.
            0x15 => line.clear(),
            0x08 | 0x7f => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            byte if line.len() < PASSWORD_BYTES_MAX => line.push(byte),
            _ => {}
        }
    }
    Ok(line)
}
