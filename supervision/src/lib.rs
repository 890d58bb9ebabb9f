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
//! Everything else in `supervisor.erl` of OTP 25 that is not about loading code
//! is here, under its name.
//! * A supervisor that exceeds its intensity *fails* with [`Meltdown`]; OTP's
//!   exits with `shutdown`, which a transient entry in its parent would take
//!   for a normal end, and the subtree would be gone without a word.
//! * Restarts may wait for a [`Backoff`]. OTP restarts at once, as these do
//!   without one.
//! * Exits are heard before requests and retries; OTP takes all in the order
//!   of their arrival.
//! * The period of an [`Intensity`] is measured exactly, not in whole seconds.
//! * A kill takes effect at the child's next `await`. A child that blocks its
//!   thread holds its supervisor up, as nothing in Rust can end it.
//! * When a supervisor was killed, its next incarnation waits for the ends of
//!   the children that it left. OTP may have both alive for a moment.
//! * A [`DynamicSupervisor`] goes by keys, OTP's `simple_one_for_one` by pids;
//!   each of its children has a spec of its own, and with it a restart type, a
//!   time-out and significance. It starts children concurrently, not one by
//!   one, and gives up the starts that are under way when it stops, where OTP
//!   finishes them first. One that chooses not to run at its restart is
//!   forgotten.
//! * A specification holds a function and not its name, so there is nothing to
//!   do for `modules` and code changes.
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
mod roster;
mod seat;
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
pub use roster::{ChildCounts, ChildInfo};
pub use spec::{ChildKind, ChildSpec, Restart, Shutdown, StartFn, StartFuture, WORKER_SHUTDOWN};
pub use strategy::{AutoShutdown, Strategy};
pub use supervisor::{Supervisor, SupervisorSpec};
pub use tree::{Observe, Status, TreeNode};

/// Counts restarts, by `supervisor`.
pub const RESTARTS_TOTAL: &str = "canopy_supervision_restarts_total";

/// How many keys are quarantined now, by `supervisor`.
pub const QUARANTINED: &str = "canopy_supervision_quarantined";
