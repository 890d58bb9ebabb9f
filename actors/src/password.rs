//! Password hashing: Argon2id (RFC 9106), bounded at once.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use canopy_domain::{Code, Refusal, Secret};
use tokio::sync::Semaphore;

/// Hashes and compares passwords on blocking threads.
#[derive(Clone)]
pub struct PasswordHashing {
    params: Params,
    /// Compared with where there is no account, so that the answer takes as
    /// long.
    decoy: Secret,
    threads: Arc<Semaphore>,
}

impl PasswordHashing {
    /// `memory_kib` KiB and `passes` passes a hash, `threads_max` hashes at
    /// once.
    ///
    /// # Errors
    /// Argon2 does not take these parameters.
    pub fn new(memory_kib: u32, passes: u32, threads_max: usize) -> Result<Self, Refusal> {
        let params = Params::new(memory_kib, passes, 1, None)
            .map_err(|e| Refusal::invalid("identity.argon2_memory_kib", e.to_string()))?;
        let decoy = hash(&params, &Secret::new("a password that nobody has"))?;
        Ok(Self { params, decoy, threads: Arc::new(Semaphore::new(threads_max)) })
    }

    /// The PHC string of a new password.
    pub(crate) async fn hash(&self, password: Secret) -> Result<Secret, Refusal> {
        let params = self.params.clone();
        self.run(move || hash(&params, &password)).await?
    }

    /// Whether a password fits a PHC string; `None` never does.
    pub(crate) async fn verify(&self, phc: Option<Secret>, password: Secret) -> Result<bool, Refusal> {
        let (stored, known) = match phc {
            Some(phc) => (phc, true),
            None => (self.decoy.clone(), false),
        };
        let fits = self.run(move || verify(&stored, &password)).await??;
        Ok(fits && known)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let failed = |e: &dyn std::fmt::Display| Refusal::new(Code::Internal, format!("hashing failed: {e}"));
        let _thread = self.threads.acquire().await.map_err(|e| failed(&e))?;
        tokio::task::spawn_blocking(work).await.map_err(|e| failed(&e))
    }
}

fn hash(params: &Params, password: &Secret) -> Result<Secret, Refusal> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let phc = argon2
        .hash_password(password.expose().as_bytes())
        .map_err(|e| Refusal::new(Code::Internal, format!("hashing failed: {e}")))?;
    Ok(Secret::new(phc.to_string()))
}

fn verify(phc: &Secret, password: &Secret) -> Result<bool, Refusal> {
    let stored = PasswordHash::new(phc.expose())
        .map_err(|e| Refusal::new(Code::Internal, format!("a stored password hash cannot be read: {e}")))?;
    Ok(Argon2::default().verify_password(password.expose().as_bytes(), &stored).is_ok())
}
