//! Waits between preparation and pause, as long as a file is there: whoever removes it begins the pause.
//!
//! What gets stale meanwhile is kept fresh here (slots, so that they keep no WAL; the cache), or is done after this step:
//! gates and poolers' files are looked at again, rights to connect are read, sequences are brought near, connections are
//! opened. Stopped here, the switchover is taken back. A file that cannot be looked for counts as one that is there.

use std::{path::PathBuf, time::Duration};

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use tokio::time::Instant;

use super::{
    check_gates::{Decision, decide},
    hot::databases,
    warm_cache,
};
use crate::{
    pg::Side,
    readers,
    world::{Cx, World},
};

/// Waits until the file is gone.
pub struct Postpone {
    /// The side that serves.
    pub from: Side,
    /// The file.
    pub file: PathBuf,
}

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the gates are looked at, and what is waited for is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
const KEEP_SLOTS_EVERY: Duration = Duration::from_secs(60);
const READERS_EVERY: Duration = Duration::from_secs(1);
const KEEP_WARM_EVERY: Duration = Duration::from_secs(600);

/// Nobody reads these slots before the pause, and what is behind them is not needed after it.
const MOVE_SLOTS: &str = "
    SELECT pg_catalog.pg_replication_slot_advance(slot_name, pg_catalog.pg_current_wal_flush_lsn())
      FROM pg_catalog.pg_replication_slots
     WHERE slot_name = ANY($1::text[]) AND NOT active AND confirmed_flush_lsn < pg_catalog.pg_current_wal_flush_lsn()";

/// Moves the slots that were made for after the pause to the present, so that they keep no WAL.
async fn keep_slots(cx: &Cx<'_>, from: Side) -> Result<(), StepError> {
    let world = cx.world;
    for database in databases(cx)?.0 {
        let audit = vec![world.audit_slot(&database)];
        let reverse = vec![world.stream(from.other(), &database)];
        world.cluster(from).db(&database.name).await?.query(MOVE_SLOTS, &[&audit]).await?;
        world.cluster(from.other()).db(&database.name).await?.query(MOVE_SLOTS, &[&reverse]).await?;
    }
    Ok(())
}

/// Keeps them so, whenever it is time.
pub struct KeepSlots(Every);

impl KeepSlots {
    /// Begins to count.
    pub fn begin() -> Self {
        Self(Every::new(KEEP_SLOTS_EVERY))
    }

    /// Moves the slots, if it is time. That this fails for once is told, and tried again.
    pub async fn keep(&mut self, cx: &Cx<'_>, from: Side) {
        if self.0.is_due()
            && let Err(error) = keep_slots(cx, from).await
        {
            cx.warn(format!("the slots made for after the pause keep WAL: {error}"));
        }
    }
}

/// What comes round every so often; not at once.
struct Every(Duration, Instant);

impl Every {
    fn new(every: Duration) -> Self {
        Self(every, Instant::now())
    }

    fn is_due(&mut self) -> bool {
        let due = self.1.elapsed() >= self.0;
        if due {
            self.1 = Instant::now();
        }
        due
    }
}

impl Postpone {
    async fn gone(&self) {
        while tokio::fs::try_exists(&self.file).await.unwrap_or(true) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn tell(&self, cx: &Cx<'_>, since: Instant) {
        let gates = match decide(cx, self.from).await {
            Ok(Decision::Go) => "nothing is in its way".to_owned(),
            Ok(Decision::Hold { reasons, .. }) => format!("it would be held: {}", reasons.join("; ")),
            Err(error) => format!("the gates cannot be looked at: {error}"),
        };
        let text = format!(
            "ready, and postponed for {:.0} s: remove `{}` to begin the pause; {gates}",
            since.elapsed().as_secs_f64(),
            self.file.display()
        );
        cx.progress(Progress { text, ..Progress::default() });
    }

    /// Looks after readers that went ahead, for as long as they are served well; returns why they are not.
    async fn watch_readers(&self, cx: &Cx<'_>) -> StepError {
        match readers::Ways::of(cx, self.from) {
            Err(error) => return error,
            Ok(ways) if !ways.readers_go_first(self.from) => return std::future::pending().await,
            Ok(_) => {}
        }
        let mut watch = readers::watch_window::Watch::default();
        loop {
            if let Err(error) = watch.look(cx).await {
                return error;
            }
            tokio::time::sleep(READERS_EVERY).await;
        }
    }

    /// Keeps fresh what the waiting would make stale, without an end.
    async fn keep_ready(&self, cx: &Cx<'_>) {
        let began = Instant::now();
        let (mut tell, mut slots, mut warm) = (Every::new(TELL_EVERY), KeepSlots::begin(), Every::new(KEEP_WARM_EVERY));
        self.tell(cx, began).await;
        loop {
            slots.keep(cx, self.from).await;
            if warm.is_due() {
                warm_cache::warm(cx, self.from).await;
            }
            if tell.is_due() {
                self.tell(cx, began).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Step<World> for Postpone {
    /// How long, in seconds.
    type Output = f64;
    const NAME: StepName = StepName("switchover.postpone");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("wait, with everything ready, until `{}` is removed", self.file.display())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<f64>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<f64, StepError> {
        let began = Instant::now();
        tokio::select! {
            biased;
            // by itself, so that everything is taken back; cut short, the plan would be left open with its slots
            () = cx.stopped() => return Err(StepError::fatal("stopped on request while postponed", "begin it again when ready")),
            // what is under way then is dropped: it takes nothing that it does not give back
            () = self.gone() => {}
            error = self.watch_readers(cx) => return Err(error),
            () = self.keep_ready(cx) => {}
        }
        Ok(began.elapsed().as_secs_f64())
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
