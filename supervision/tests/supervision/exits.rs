//! Which exit restarts which child.

use crate::stage::check;

/// The table in `supervisor.erl`'s documentation of `restart`.
#[tokio::test(start_paused = true)]
async fn restart_types_and_exits() {
    let exits = [
        ("stop a", "stopped a", "normal"),
        ("stop a normal", "stopped a", "normal"),
        ("stop a shutdown", "stopped a", "normal"),
        ("stop a shutdown:moved", "stopped a", "normal"),
        ("stop a weary", "stopped a", "abnormal"),
        ("crash a", "crashed a", "abnormal"),
        ("fail a", "crashed a", "abnormal"),
        ("kill a", "killed a", "abnormal"),
    ];
    for restart in ["permanent", "transient", "temporary"] {
        for (order, end, class) in exits {
            let again = match (restart, class) {
                ("permanent", _) | ("transient", "abnormal") => ", started a",
                _ => "",
            };
            // Whether the supervisor still knows it shows in what a restart by
            // hand answers.
            let by_hand = match (restart, again) {
                (_, ", started a") => "| child a is running: terminate it first",
                ("temporary", _) => "| no child a: list them with which_children",
                _ => "started a",
            };
            check(
                &format!("s one_for_one\n a {restart}"),
                &format!("{order}\n restart a"),
                &format!("> start\n started a\n> {order}\n {end}{again}\n> restart a\n {by_hand}"),
            )
            .await;
        }
    }
}
