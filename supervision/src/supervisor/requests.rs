//! OTP's requests to a running supervisor: `handle_call/3` in `supervisor.erl`.

use std::sync::Arc;

use ractor::ActorCell;

use super::Child;
use super::process::{Process, State};
use crate::error::{ChildError, StartError};
use crate::spec::{ChildSpec, Restart};
use crate::tree::Status;

impl Process {
    fn find(&self, id: &Arc<str>) -> Result<(u64, Status, Restart), ChildError> {
        let children = self.shared.children.lock();
        children
            .iter()
            .find(|child| child.spec.id == *id)
            .map(|child| (child.token, child.status, child.spec.restart))
            .ok_or_else(|| ChildError::NotFound { key: Arc::clone(id) })
    }

    /// The token of a child that has no actor and no restart due.
    fn find_idle(&self, id: &Arc<str>) -> Result<u64, ChildError> {
        let key = Arc::clone(id);
        match self.find(id)? {
            (token, Status::Stopped, _) => Ok(token),
            (_, Status::Restarting, _) => Err(ChildError::Restarting { key }),
            _ => Err(ChildError::Running { key }),
        }
    }

    /// `handle_start_child/2`.
    pub(super) async fn add(
        &self,
        myself: &ActorCell,
        state: &mut State,
        spec: ChildSpec,
    ) -> Result<ActorCell, ChildError> {
        let key = Arc::clone(&spec.id);
        if let Ok((token, _, _)) = self.find(&key) {
            let cell = self.with(token, |child| child.cell.clone()).flatten();
            return Err(match cell {
                Some(cell) => StartError::AlreadyStarted { key, cell }.into(),
                None => ChildError::AlreadyPresent { key },
            });
        }
        let token = state.next_token;
        state.next_token += 1;
        self.shared.children.lock().push(Child::new(token, spec));
        let started = self.start_one(myself, token).await;
        if started.is_err() {
            self.forget(&[token]);
        }
        Ok(started?.ok_or(StartError::Ignored)?)
    }

    pub(super) async fn terminate(&self, id: &Arc<str>) -> Result<(), ChildError> {
        let (token, _, restart) = self.find(id)?;
        self.stop_one(token).await;
        if restart == Restart::Temporary {
            self.forget(&[token]);
        }
        Ok(())
    }

    pub(super) async fn start_again(&self, myself: &ActorCell, id: &Arc<str>) -> Result<ActorCell, ChildError> {
        let token = self.find_idle(id)?;
        Ok(self.start_one(myself, token).await?.ok_or(StartError::Ignored)?)
    }

    pub(super) fn delete(&self, id: &Arc<str>) -> Result<(), ChildError> {
        let token = self.find_idle(id)?;
        self.forget(&[token]);
        Ok(())
    }
}
