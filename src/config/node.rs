//! This node's name and number.

use std::io;
use std::path::Path;

/// `forebay@<hostname>`: two nodes that share a database are told apart without any setting.
pub fn default_name() -> String {
    let uname = rustix::system::uname();
    format!("forebay@{}", uname.nodename().to_string_lossy())
}

/// The number of this node in msgids: the one set, else the one kept in the data folder, else one derived from the name.
/// The file `node` keeps it, so that a renamed host goes on with the number it has.
///
/// # Errors
/// Where the file can't be read or written, or holds something else.
pub fn number(data: &Path, name: &str, set: Option<u64>) -> io::Result<u16> {
    let path = data.join("node");
    let kept = match std::fs::read_to_string(&path) {
        Ok(text) => {
            let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it does not hold a number from 0 to 65535");
            Some(text.trim().parse::<u16>().map_err(|_| wrong())?)
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(source),
    };
    let set = set.map(|number| u16::try_from(number).unwrap_or(u16::MAX));
    let number = set.or(kept).unwrap_or_else(|| derived(name));
    if kept != Some(number) {
        std::fs::create_dir_all(data)?;
        let fresh = data.join("node.new");
        std::fs::write(&fresh, format!("{number}\n"))?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        std::fs::File::open(data)?.sync_all()?;
    }
    Ok(number)
}

/// FNV-1a folded to 16 bits: the same for a name on every machine and in every version.
fn derived(name: &str) -> u16 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) ^ (hash & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_number_when_its_name_changes() {
        let dir = tempfile::tempdir().unwrap();
        let first = number(dir.path(), "forebay@a", None).unwrap();
        assert_eq!(number(dir.path(), "forebay@b", None).unwrap(), first);
        assert_ne!(derived("forebay@a"), derived("forebay@b"));
        assert_eq!(number(dir.path(), "forebay@b", Some(7)).unwrap(), 7);
        assert_eq!(number(dir.path(), "forebay@b", None).unwrap(), 7);
    }

    #[test]
    fn the_number_of_a_name_never_changes() {
        assert_eq!(derived(""), 0x811c ^ 0x9dc5);
    }
}
