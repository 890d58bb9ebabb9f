//! The hash of a password alone, at what a server is installed with.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::OnceLock;

use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::LoadError;

/// Memory and passes of a fresh server's configuration (`identity.argon2_*`).
const MEMORY_KIB: u32 = 65_536;
const PASSES: u32 = 3;
const HASH_BYTES: usize = 32;

thread_local! {
    /// What a thread hashes in; as the server's do, it asks for it once.
    static MEMORY: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Argon2id with a password's hash to compare with.
pub struct BareHash {
    argon2: Argon2<'static>,
    expected: [u8; HASH_BYTES],
}

fn failed(error: argon2::Error) -> LoadError {
    LoadError::Subject(error.to_string())
}

impl BareHash {
    /// As installed; made once.
    pub fn installed() -> &'static Self {
        static INSTALLED: OnceLock<BareHash> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            let params = Params::new(MEMORY_KIB, PASSES, 1, Some(HASH_BYTES)).expect("the parameters are permitted");
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let mut hash = Self { argon2, expected: [0; HASH_BYTES] };
            hash.expected = hash.hash().expect("a password is hashed");
            hash
        })
    }

    fn hash(&self) -> Result<[u8; HASH_BYTES], LoadError> {
        let mut hash = [0; HASH_BYTES];
        let (password, salt) = (black_box(b"a password for measuring"), black_box(b"sixteen bytes!!!"));
        MEMORY.with_borrow_mut(|memory| {
            memory.resize(self.argon2.params().block_count(), Block::new());
            self.argon2.hash_password_into_with_memory(password, salt, &mut hash, memory).map_err(failed)
        })?;
        Ok(hash)
    }

    /// Hashes once more, and compares.
    ///
    /// # Errors
    /// It is another hash.
    pub fn verify(&self) -> Result<(), LoadError> {
        if self.hash()? == self.expected { Ok(()) } else { Err(LoadError::Subject("a hash differs".into())) }
    }
}
