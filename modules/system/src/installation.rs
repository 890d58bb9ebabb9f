//! Who administers the installation.

use canopy_domain::{Address, Code, Context, Draft, Module, Order, Refusal, Span, State, Table, Wire};
use canopy_proto::methods::installation_grants as methods;
use canopy_proto::system::v1::{ClaimSysAdminRequest, ClaimSysAdminResponse, SysAdmin};

/// By account id.
pub const SYS_ADMINS: Table<SysAdmin> = Table::new(1, "sys_admins", 1);

/// The module of `system/installation`.
pub fn installation() -> Module {
    Module::new("installation").command(methods::CLAIM_SYS_ADMIN, claim_sys_admin)
}

fn claim_sys_admin(
    state: &State<'_>,
    request: ClaimSysAdminRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ClaimSysAdminResponse, Refusal> {
    let id = Address::parse(&request.account)
        .ok()
        .and_then(|address| address.id())
        .ok_or_else(|| Refusal::new(Code::InvalidArgument, "account: names no account"))?;
    let any = Span { prefix: &[], after: None, order: Order::Ascending, limit: 1 };
    if !state.scan(&SYS_ADMINS, any)?.is_empty() {
        return Ok(ClaimSysAdminResponse { granted: false });
    }
    let row = SysAdmin { account: request.account, create_time_ms: cx.now_ms };
    draft.insert(&SYS_ADMINS, *id.as_bytes(), &Wire::new(&row));
    Ok(ClaimSysAdminResponse { granted: true })
}
