//! What is slow or touches others, done before a command reaches its actor.

use canopy_domain::{Address, Context, Module, PasskeyDone, PasskeyFit, PasskeyStep, Prepared, Refusal, Step};

use crate::attempts::Tried;
use crate::call::Call;
use crate::{Node, clock};

/// Steps of one command at most: a module that asks for more loops.
const STEPS_MAX: usize = 8;

impl Node {
    /// Does a call's steps, against the durable state.
    pub(crate) async fn prepare(
        &self,
        module: &Module,
        address: &Address,
        call: &Call,
    ) -> Result<Vec<Prepared>, Refusal> {
        let mut prepared = Vec::new();
        while module.prepares(call.method) && prepared.len() < STEPS_MAX {
            let snapshot = self.snapshot(address).await?;
            let cx = Context {
                now_ms: clock::now_ms(),
                entropy: clock::random_bytes(),
                address,
                principal: &call.principal,
                origin: &call.origin,
                role: call.role,
                seq: 0,
                prepared: &prepared,
                issuer: self.issuer(),
                settings: self.settings(),
            };
            match module.prepare(call.method, &snapshot, &call.request, &cx)? {
                Some(step) => prepared.push(self.step(address, call, step, prepared.len()).await?),
                None => break,
            }
        }
        Ok(prepared)
    }

    async fn step(&self, address: &Address, call: &Call, step: Step, n: usize) -> Result<Prepared, Refusal> {
        Ok(match step {
            Step::HashPassword(password) => {
                Prepared::PasswordHash(self.passwords().hash(password, &call.origin.place()).await?)
            }
            Step::FindBreached(password) => {
                Prepared::Breached(self.passwords().is_breached(password, &call.origin.place()).await?)
            }
            Step::VerifyPassword { phc, password, attempt } => {
                let place = call.origin.place();
                Prepared::Password(self.passwords().verify(phc, password, attempt, &place).await?)
            }
            Step::Ask { target, method, request } => {
                // A step is repeated under the same id when its command is.
                let request_id = match call.request_id.as_str() {
                    "" => String::new(),
                    id => format!("{}?{id}.{n}", call.principal.as_str()),
                };
                Prepared::Answer(Box::pin(self.ask(&target, method, request, address, &request_id)).await)
            }
            Step::AskAll { asked, method } => {
                let mut answers = Vec::with_capacity(asked.len());
                for (target, request) in asked {
                    answers.push(Box::pin(self.ask(&target, method, request, address, "")).await);
                }
                Prepared::Answers(answers)
            }
            Step::Passkey(step) => Prepared::Passkey(self.passkey(*step)?),
        })
    }

    fn passkey(&self, step: PasskeyStep) -> Result<PasskeyDone, Refusal> {
        let (passkeys, now_ms) = (self.passkeys(), clock::now_ms());
        match step {
            PasskeyStep::Begin { account, email, display_name, known } => {
                passkeys.begin(account, &email, &display_name, known)
            }
            PasskeyStep::Finish { begun, answer } => passkeys.finish(begun, &answer),
            PasskeyStep::BeginLogIn { of } => passkeys.begin_log_in(of, now_ms),
            PasskeyStep::ReadLogIn { challenge, answer } => passkeys.read_log_in(&challenge, &answer, now_ms),
            PasskeyStep::CompareLogIn { challenge, answer, credential, attempt, place } => {
                let attempts = self.passwords().attempts();
                attempts.admit(&attempt, Tried::Passkey, &place, now_ms)?;
                let fit = passkeys.compare(&challenge, &answer, credential.as_ref(), now_ms)?;
                match fit {
                    PasskeyFit::Wrong => attempts.failed(&attempt, &place, now_ms),
                    PasskeyFit::Right { .. } | PasskeyFit::CounterWentBack => attempts.succeeded(&attempt, &place),
                }
                Ok(PasskeyDone::Compared(fit))
            }
        }
    }
}
