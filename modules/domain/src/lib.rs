//! The words every module speaks. A module is pure: it reads through
//! [`State`], decides with what [`Context`] gives it, writes a [`Draft`], and
//! refuses with a [`Refusal`]. It sees no clock, no network and no store.

mod address;
mod context;
mod draft;
mod id;
mod mask;
mod module;
mod no_tokens;
mod page;
mod passkey;
mod principal;
mod reader;
mod refusal;
mod rows;
mod search;
mod settings;
mod table;
mod time;
mod view;

pub use address::{Address, AddressError, Kind, Name, SYSTEM};
pub use context::{Attempt, Context, PasswordFit, Policy, Prepared, Secret, Step, TokenClaims, TokenIssuer};
pub use draft::{Change, Draft, DraftParts, Effect};
pub use id::Id;
pub use mask::Mask;
pub use module::{Module, Modules, Subscription, Watch, WatchEnd};
pub use no_tokens::NoTokens;
pub use page::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, PageRequest};
pub use passkey::{PASSKEY_CHALLENGE_S, PasskeyClaim, PasskeyDone, PasskeyFit, PasskeyHolder, PasskeyStep};
pub use principal::{Origin, Principal};
pub use reader::{Order, Reader, Span, State, decode};
pub use refusal::{Code, Details, FieldViolation, QuotaLimit, QuotaViolation, Refusal};
pub use rows::Rows;
pub use search::Words;
pub use settings::{QuotaDefaults, Settings};
pub use table::{Row, Table};
pub use time::{civil, utc};
pub use view::{Source, View, ViewWrite};

pub use canopy_proto::Wire;
pub use canopy_proto::options::v1::Role;
