//! Hashes of passwords: argon2id, as PHC strings (`$argon2id$v=19$m=19456,t=2,p=1$salt$hash`).

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};

/// Most memory that verifying one password may take, KiB.
const MEMORY_KIB_MAX: u32 = 1 << 20;
/// Most passes and lanes.
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 64;

/// What hashing a password costs whoever guesses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Memory, KiB; 8 to 1048576.
    pub memory_kib: u32,
    /// Passes over it; 1 to 64.
    pub passes: u32,
    /// Lanes; 1 to 64.
    pub lanes: u32,
}

impl Default for Cost {
    /// OWASP's minimum of 2023: 19 MiB, two passes, one lane.
    fn default() -> Self {
        Cost { memory_kib: 19_456, passes: 2, lanes: 1 }
    }
}

/// Why a text is no hash that is taken, or a password could not be hashed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not of the form.
    #[error("this is no hash of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash ({0}); `forebay user passwd` makes one")]
    Form(String),
    /// Another algorithm.
    #[error("the hash is of `{0}`, and only argon2id is taken; `forebay user passwd` makes one")]
    Algorithm(String),
    /// Costs that are refused.
    #[error("the hash asks for m={memory_kib}, t={passes}, p={lanes}; at most m=1048576 (1 GiB), t=64, p=64 is taken")]
    Cost {
        /// KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// The system gave no random bytes, or no memory.
    #[error("the password could not be hashed: {0}")]
    Failed(String),
}

/// A password's hash.
#[derive(Clone, Debug)]
pub struct Hash {
    phc: PasswordHash,
    text: Box<str>,
    cost: Cost,
}

impl Hash {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// It is none, or not of argon2id, or too costly.
    pub fn parse(text: &str) -> Result<Hash, HashError> {
        let phc = PasswordHash::new(text).map_err(|error| HashError::Form(error.to_string()))?;
        if phc.algorithm.as_str() != "argon2id" {
            return Err(HashError::Algorithm(phc.algorithm.as_str().to_owned()));
        }
        if phc.salt.is_none() || phc.hash.is_none() {
            return Err(HashError::Form("salt or hash is missing".to_owned()));
        }
        if phc.version.is_some_and(|version| Version::try_from(version).is_err()) {
            return Err(HashError::Form("its version does not exist".to_owned()));
        }
        let params = Params::try_from(&phc).map_err(|error| HashError::Form(error.to_string()))?;
        let cost = Cost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() };
        let Cost { memory_kib, passes, lanes } = cost;
        if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(HashError::Cost { memory_kib, passes, lanes });
        }
        Ok(Hash { phc, text: text.into(), cost })
    }

    /// Hashes a password with a new salt. Takes tens of milliseconds with the default cost.
    ///
    /// # Errors
    /// The cost is none that is taken, or the system gives no random bytes.
    pub fn of(password: &[u8], cost: Cost) -> Result<Hash, HashError> {
        let mut salt = [0u8; 16];
        SystemRandom::new().fill(&mut salt).map_err(|_| HashError::Failed("no random bytes".to_owned()))?;
        let failed = |error: &dyn std::fmt::Display| HashError::Failed(error.to_string());
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(|e| failed(&e))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let phc = argon2.hash_password_with_salt(password, &salt).map_err(|e| failed(&e))?;
        Hash::parse(&phc.to_string())
    }

    /// Whether it is this password's. Takes as long as hashing; for a thread that may block.
    #[must_use]
    pub fn verifies(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &self.phc).is_ok()
    }

    /// The PHC string.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What verifying costs.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn a_hash_verifies_its_password_and_no_other_and_two_hashes_differ() {
        let hash = Hash::of(b"secret", CHEAP).unwrap();
        assert!(hash.verifies(b"secret") && !hash.verifies(b"Secret") && !hash.verifies(b""));
        let again = Hash::parse(hash.text()).unwrap();
        assert!(again.verifies(b"secret"));
        assert_eq!(again.cost(), CHEAP);
        assert_ne!(Hash::of(b"secret", CHEAP).unwrap().text(), hash.text(), "the salt is new each time");
    }

    #[test]
    fn a_hash_of_another_program_is_taken_and_other_algorithms_and_costs_are_refused() {
        // printf pw | argon2 somesalt -id -t 2 -k 64 -p 1 -l 32 -e
        let other = "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQ$";
        assert!(matches!(Hash::parse(other), Err(HashError::Form(_))));
        let good = Hash::of(b"pw", CHEAP).unwrap();
        let text = good.text();
        for bad in ["", "x", "$", "$argon2id$", "$argon2id$v=99$m=8,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA"] {
            assert!(Hash::parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(Hash::parse(&text.replacen("argon2id", "argon2i", 1)), Err(HashError::Algorithm(_))));
        assert!(matches!(Hash::parse(&text.replacen("m=8", "m=4194304", 1)), Err(HashError::Cost { .. })));
        assert!(matches!(Hash::parse(&text.replacen("t=1", "t=65", 1)), Err(HashError::Cost { .. })));
    }
}
