//! Who administers the installation.

use canopy_domain::{Address, Code, Context, Draft, Id, Module, Order, Refusal, Span, State, Table, Wire};
use canopy_proto::methods::installation_grants as methods;
use canopy_proto::system::v1::{
    CheckNoSysAdminRequest, CheckNoSysAdminResponse, ClaimSysAdminRequest, ClaimSysAdminResponse, SysAdmin,
};

/// By account id.
pub const SYS_ADMINS: Table<SysAdmin> = Table::new(1, "sys_admins", 1);

/// The module of `system/installation`.
pub fn installation() -> Module {
    Module::new("installation")
        .command(methods::CLAIM_SYS_ADMIN, claim_sys_admin)
        .query(methods::CHECK_NO_SYS_ADMIN, check_no_sys_admin)
}

fn id_of(account: &str) -> Result<Id, Refusal> {
    let id = Address::parse(account).ok().and_then(|address| address.id());
    id.ok_or_else(|| Refusal::new(Code::InvalidArgument, "account: names no account"))
}

fn check_no_sys_admin(
    state: &State<'_>,
    request: CheckNoSysAdminRequest,
    _: &Context<'_>,
) -> Result<CheckNoSysAdminResponse, Refusal> {
    match state.get(&SYS_ADMINS, id_of(&request.account)?.as_bytes())? {
        None => Ok(CheckNoSysAdminResponse {}),
        Some(_) => Err(Refusal::new(Code::FailedPrecondition, "a sys-admin's account cannot be deleted")
            .hint("an installation is not left without anybody who runs it")),
    }
}

fn claim_sys_admin(
    state: &State<'_>,
    request: ClaimSysAdminRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ClaimSysAdminResponse, Refusal> {
    let id = id_of(&request.account)?;
    let any = Span { prefix: &[], after: None, order: Order::Ascending, limit: 1 };
    if !state.scan(&SYS_ADMINS, any)?.is_empty() {
        return Ok(ClaimSysAdminResponse { granted: false });
    }
    let row = SysAdmin { account: request.account, create_time_ms: cx.now_ms };
    draft.insert(&SYS_ADMINS, *id.as_bytes(), &Wire::new(&row));
    Ok(ClaimSysAdminResponse { granted: true })
}
