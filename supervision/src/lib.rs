//! OTP supervision semantics on ractor.
//!
//! ractor links actors and reports exits; it has no child specifications, no
//! restart intensity and no ordered shutdown. This crate adds what OTP's
//! `supervisor` has, under OTP's words, and cites `supervisor.erl` where a rule
//! comes from it:
//!
//! * [`Supervisor`]: a fixed list of children, started in order, stopped in
//!   reverse order, restarted by [`Strategy`] within an [`Intensity`].
//! * [`DynamicSupervisor`]: children by key, up to a million, for virtual
//!   actors. A key that crashes again and again can be quarantined instead of
//!   melting the supervisor down.
//! * [`Mailbox`]: a bound for ractor's mailboxes.
//! * [`Observe`]: the running tree, read without sending a message.
//!
//! # Where this differs from OTP
//! * A supervisor that exceeds its intensity *fails* with [`Meltdown`]; OTP's
//!   exits with `shutdown`, which a transient entry in its parent would take
//!   for a normal end.
//! * Restarts may wait for a [`Backoff`]. OTP restarts at once, as these do
//!   without one.
//! * A kill takes effect at the child's next `await`. A child that blocks its
//!   thread holds its supervisor up, as nothing in Rust can end it.
//! * A dynamic supervisor starts children concurrently, not one by one, and
//!   has no significant children.
//!
//! # Exits
//! | the child | [`Exit`] | permanent | transient | temporary |
//! |---|---|---|---|---|
//! | `stop(None)`, `"normal"`, drained | normal | restart | stays away | forgotten |
//! | `stop("shutdown")`, `"shutdown: …"` | shutdown | restart | stays away | forgotten |
//! | panic, `Err`, kill, any other reason | abnormal | restart | restart | forgotten |

mod backoff;
mod clock;
mod dynamic;
mod error;
mod exit;
mod intensity;
mod mailbox;
mod probe;
mod quarantine;
mod spec;
mod stop;
mod strategy;
mod supervisor;
mod tree;

pub use backoff::Backoff;
pub use dynamic::{DynamicSpec, DynamicSupervisor, OnCrashLoop};
pub use error::{ChildError, Meltdown, StartError};
pub use exit::{Exit, NORMAL, SHUTDOWN};
pub use intensity::{Intensity, RestartWindow};
pub use mailbox::{CallError, LATE_REPLY_WAIT_MAX, Mailbox, Permit, Permitted, SendError};
pub use probe::{Probe, TEXT_BYTES_MAX};
pub use quarantine::QuarantinePolicy;
pub use spec::{ChildKind, ChildSpec, Restart, Shutdown, StartFn, StartFuture, WORKER_SHUTDOWN};
pub use strategy::{AutoShutdown, Strategy};
pub use supervisor::{ChildInfo, Supervisor, SupervisorSpec};
pub use tree::{Observe, Status, TreeNode};

/// Counts restarts, by `supervisor`.
pub const RESTARTS_TOTAL: &str = "canopy_supervision_restarts_total";

/// How many keys are quarantined now, by `supervisor`.
pub const QUARANTINED: &str = "canopy_supervision_quarantined";
