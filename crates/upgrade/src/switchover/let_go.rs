//! Clients never wait past the write budget, also when the server that they wait for is gone.
//!
//! Whoever is let go to a server that is down or still fenced is refused at once, as in any outage: applications know what
//! to do about an error, and not about a wait without an end. PgBouncer itself goes on refusing for `server_login_retry`
//! after a login that failed, which is why the write budget is used up first. Does not help clients of a pooler that is
//! gone too.

use std::time::Duration;

use futures::future::join;
use pgleap_saga::StepError;
use tokio::time::{Instant, timeout_at};

use super::hot::{databases, pause_id};
use crate::{pg::Side, readers::addresses_of, world::Cx};

/// What takes longer than this has no answer: a server that is well needs a few milliseconds.
const NO_ANSWER: Duration = Duration::from_secs(1);

/// Does `work`, for which clients wait at the poolers, to make `side` serve them; if it fails or has no answer, and the
/// write budget is over, lets them go all the same. Work without an answer is awaited further.
///
/// # Errors
/// Those of `work`.
pub async fn or_let_go<T>(
    cx: &Cx<'_>,
    side: Side,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let began = Instant::now();
    // paused by a process that died: nobody knows for how long they have waited
    let paused_at = cx.world.hot.lock().await.as_ref().and_then(|hot| hot.paused_at);
    let over = paused_at.map_or(began, |at| at + cx.world.config.budgets.write_pause);
    let mut work = std::pin::pin!(work);
    match timeout_at(over.max(began + NO_ANSWER), &mut work).await {
        Ok(Err(error)) if Instant::now() >= over => {
            let_go(cx, side).await;
            Err(error)
        }
        Ok(result) => result,
        // side by side: letting go may need what the work holds, the connection to a guard for example
        Err(_) => join(let_go(cx, side), &mut work).await.1,
    }
}

/// Resumes every paused entry that leads to `side`. One that leads to the other side stays: clients that are superusers
/// would pass its fence.
async fn let_go(cx: &Cx<'_>, side: Side) {
    let (Ok((_, names)), Ok(addresses)) = (databases(cx), addresses_of(cx, side)) else {
        return;
    };
    let (paused, lost) = cx.world.route.let_go(&pause_id(cx), &addresses, &names).await;
    if paused > 0 {
        cx.warn(format!(
            "the write budget is over and the {side} does not let clients in: they are refused from now on, instead of \
             waiting; the {side} is tried again"
        ));
    }
    // tried again with the work, and by the step that resumes
    for lost in lost {
        cx.warn(format!("clients may still wait at a pooler: {lost}"));
    }
}
