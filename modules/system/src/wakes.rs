//! Which addresses must be active at a time, so that a wish outlives the
//! actor that uttered it and the vault that holds it.

use canopy_domain::{Context, Draft, Module, Order, Refusal, Span, State, Table, Wire, decode};
use canopy_proto::methods::wakes as methods;
use canopy_proto::system::v1::{ListWakesRequest, ListWakesResponse, SetWakeRequest, SetWakeResponse, Wake};

/// By keyed digest of the address.
const BY_ADDRESS: Table<Wake> = Table::new(1, "wakes_by_address", 1);
/// By time (big-endian milliseconds), then digest of the address.
const BY_TIME: Table<Wake> = Table::new(2, "wakes_by_time", 1);

/// Wake-ups handed out at once.
const LIST_MAX: usize = 1000;

/// The module of `system/wakes`.
pub fn wakes() -> Module {
    Module::new("wakes").command(methods::SET_WAKE, set_wake).query(methods::LIST_WAKES, list_wakes)
}

fn time_key(time_ms: i64, digest: &[u8; 16]) -> Vec<u8> {
    let mut key = time_ms.max(0).to_be_bytes().to_vec();
    key.extend(digest);
    key
}

fn set_wake(
    state: &State<'_>,
    request: SetWakeRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<SetWakeResponse, Refusal> {
    let digest = state.digest(&request.address);
    let before = state.get(&BY_ADDRESS, &digest)?;
    if let Some(row) = &before {
        let old = decode(row)?;
        if old.time_ms == request.time_ms {
            return Ok(SetWakeResponse {});
        }
        draft.delete(&BY_TIME, time_key(old.time_ms, &digest), row);
    }
    if request.time_ms > 0 {
        let row = Wire::new(&Wake { address: request.address, time_ms: request.time_ms });
        draft.insert(&BY_TIME, time_key(request.time_ms, &digest), &row);
        draft.put(&BY_ADDRESS, digest, before.as_ref(), &row);
    } else if let Some(row) = &before {
        draft.delete(&BY_ADDRESS, digest, row);
    }
    Ok(SetWakeResponse {})
}

fn list_wakes(state: &State<'_>, request: ListWakesRequest, _: &Context<'_>) -> Result<ListWakesResponse, Refusal> {
    let limit = (request.limit as usize).clamp(1, LIST_MAX);
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: limit + 1 };
    let mut answer = ListWakesResponse::default();
    for (_, row) in state.scan(&BY_TIME, span)? {
        let wake = decode(&row)?;
        if wake.time_ms > request.until_ms || answer.wakes.len() == limit {
            answer.next_ms = wake.time_ms;
            break;
        }
        answer.wakes.push(wake);
    }
    Ok(answer)
}
