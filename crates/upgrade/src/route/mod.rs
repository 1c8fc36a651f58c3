//! How clients are moved: everything of the configuration at which they can be kept waiting, worked on together through its
//! guards.
//!
//! Routes differ in what stands between clients and servers, and so in what they are capable of; the switchover asks all of
//! them for the same.

mod capabilities;
pub mod command;
pub mod conformance;

pub use capabilities::{Capabilities, Clients};

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{join, join_all, try_join_all},
};
use pgleap_saga::{StepError, fault_point};
use tokio::time::Instant;

use crate::{
    config,
    guard::{
        GuardClient, Launch, Ward,
        client::Place,
        launch::Beside,
        note::Turn,
        protocol::{Answer, Status, Verb},
        tls::{Identity, TlsError},
        ward::Kept,
    },
    pgbouncer::{
        admin::{Entry, Traffic},
        ini::Address,
        inspect::{Inspection, Unseen},
        pooler::Move,
    },
};

/// The way of the upgrade's clients to a server.
pub struct Route {
    /// What it is capable of.
    pub capabilities: Capabilities,
    members: Vec<Member>,
}

/// One pooler, and its guard.
pub struct Member {
    /// What it is, and where.
    pub ward: Ward,
    /// What looks at it from here, where that is possible: no guard is started for a look.
    here: Option<Kept>,
    guard: GuardClient,
}

/// What one pooler leads to a cluster.
#[derive(Debug, Clone)]
pub struct Entries {
    member: usize,
    /// Its entries that lead there.
    pub entries: Vec<Entry>,
}

impl Entries {
    /// Returns those that lead to `address`.
    #[must_use]
    pub fn leading_to(&self, address: &Address) -> Self {
        let entries = self.entries.iter().filter(|entry| entry.leads_to(address)).cloned().collect();
        Self { member: self.member, entries }
    }
}

/// From where to where clients are led. No address is in two ways of an upgrade, so an entry tells by itself on which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Where entries lead.
    pub old: Address,
    /// Where they shall lead.
    pub new: Address,
}

impl Way {
    fn of(&self, entries: &[Entry]) -> Move {
        let on_it = |entry: &&Entry| entry.leads_to(&self.old) || entry.leads_to(&self.new);
        let entries = entries.iter().filter(on_it).cloned().collect();
        Move { entries, old: self.old.clone(), new: self.new.clone() }
    }
}

/// A pause that is to be held.
#[derive(Debug, Clone)]
pub struct Pause {
    /// Upgrade and plan.
    pub id: String,
    /// From where to where they are led, if that is decided.
    pub ways: Vec<Way>,
    /// When all must be seen to be paused.
    pub deadline: Instant,
    /// After this every guard lets its clients go on by itself.
    pub lease: Duration,
}

impl Pause {
    fn turn(&self, entries: &Entries) -> Turn {
        Turn { id: self.id.clone(), moves: self.ways.iter().map(|way| way.of(&entries.entries)).collect() }
    }
}

/// A pooler that could not be worked on, while the others were.
#[derive(Debug, Clone)]
pub struct Lost {
    /// Which one.
    pub pooler: String,
    /// Why.
    pub error: StepError,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pooler, self.error)
    }
}

/// What a guard's answer may take that does not wait for transactions.
const AT_ONCE: Duration = Duration::from_secs(5);
/// A rewrite, a RELOAD, and a look at what it made of it.
const REPOINT_BUDGET: Duration = Duration::from_secs(10);
/// The guard's own budget, and what it takes to begin and to take back.
const LOGINS_BUDGET: Duration = Duration::from_secs(60);

impl Member {
    /// Looks at everything that the checks ask about: from here if it is on this host, so that nothing is started for it.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn inspect(&self, source: &Address) -> Result<Inspection, Unseen> {
        if let Some(here) = &self.here {
            return here.inspect(source).await;
        }
        match self.guard.ask(Verb::Inspect { source: source.clone() }, AT_ONCE).await {
            Ok(Answer::Inspected(seen)) => seen,
            Ok(other) => Err(Unseen::Silent(self.odd(&other))),
            Err(error) => Err(Unseen::Unreachable(error)),
        }
    }

    /// Returns what its guard holds.
    ///
    /// # Errors
    /// If the guard does not answer.
    pub async fn status(&self) -> Result<Status, StepError> {
        match self.guard.ask(Verb::Status, AT_ONCE).await? {
            Answer::Status(status) => Ok(status),
            other => Err(self.odd(&other)),
        }
    }

    /// Sees that its guard does what is asked of it, if that is one on another host: none is started for a look.
    ///
    /// # Errors
    /// Blocked, if it refuses; transient, if it cannot be reached.
    pub async fn call_guard(&self) -> Result<(), StepError> {
        match self.here {
            Some(_) => Ok(()),
            None => self.status().await.map(drop),
        }
    }

    /// Returns its entries.
    ///
    /// # Errors
    /// If its guard does not answer, or it does not answer its guard.
    pub async fn entries(&self) -> Result<Vec<Entry>, StepError> {
        match self.guard.ask(Verb::Entries, AT_ONCE).await? {
            Answer::Entries(entries) => Ok(entries),
            other => Err(self.odd(&other)),
        }
    }

    fn lost(&self, error: StepError) -> Lost {
        Lost { pooler: self.ward.to_string(), error }
    }

    fn odd(&self, answer: &Answer) -> StepError {
        StepError::blocked(
            format!("the guard of {} speaks another language: {answer:?}", self.ward),
            "end it: `pgleap` starts one of its own version",
        )
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Route {
    /// Describes the route; nothing is connected or started yet. The guard of this host's poolers keeps its notes in
    /// `directory`; the others are called by `identity`.
    ///
    /// # Errors
    /// [`TlsError`], if the identity cannot be used.
    pub fn new(
        of: &config::Route,
        wards: Vec<Ward>,
        directory: PathBuf,
        launch: Launch,
        identity: Option<&Identity>,
    ) -> Result<Self, TlsError> {
        let tls = identity.map(Identity::connector).transpose()?;
        let own = wards.iter().filter(|ward| ward.guard().is_none()).cloned().collect();
        let beside = Arc::new(Beside::new(launch, directory, own));
        let member = |ward: Ward| {
            let place = match (ward.guard(), &tls) {
                (Some(address), Some(tls)) => Place::Network { address: address.clone(), tls: tls.clone() },
                _ => Place::Beside(beside.clone()),
            };
            Member {
                guard: GuardClient::new(ward.to_string(), ward.console(), place),
                here: ward.guard().is_none().then(|| ward.clone().take()),
                ward,
            }
        };
        Ok(Self { capabilities: of.capabilities(), members: wards.into_iter().map(member).collect() })
    }

    /// Returns every pooler.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns, for each pooler, the entries that lead to one of `databases` at any of `addresses`.
    ///
    /// # Errors
    /// Of the first guard that fails.
    pub async fn leading_to(&self, addresses: &[Address], databases: &[String]) -> Result<Vec<Entries>, StepError> {
        let (entries, mut lost) = self.reachable_leading_to(addresses, databases).await;
        if lost.is_empty() { Ok(entries) } else { Err(lost.remove(0).error) }
    }

    /// Like [`Self::leading_to`], of those poolers that answer; and the poolers that do not.
    pub async fn reachable_leading_to(&self, addresses: &[Address], databases: &[String]) -> (Vec<Entries>, Vec<Lost>) {
        let of_member = async |(member, m): (usize, &Member)| {
            let mut entries = m.entries().await.map_err(|error| m.lost(error))?;
            entries.retain(|e| addresses.iter().any(|to| e.leads_to(to)) && e.is_of(databases));
            Ok(Entries { member, entries })
        };
        split(join_all(self.members.iter().enumerate().map(of_member)).await)
    }

    /// Returns what went through the entries of each pooler.
    ///
    /// # Errors
    /// Of the first guard that fails.
    pub async fn traffic(&self, all: &[Entries]) -> Result<Vec<Traffic>, StepError> {
        let one = async |entries: &Entries| {
            let member = &self.members[entries.member];
            let mut traffic = match member.guard.ask(Verb::Traffic, AT_ONCE).await? {
                Answer::Traffic(traffic) => traffic,
                other => return Err(member.odd(&other)),
            };
            traffic.retain(|of| entries.entries.iter().any(|entry| entry.name == of.entry));
            Ok(traffic)
        };
        let all = all.iter().filter(|entries| !entries.entries.is_empty());
        Ok(try_join_all(all.map(one)).await?.concat())
    }

    /// Opens what [`Self::begin_pause`] will use, so that no login happens in the write pause.
    ///
    /// # Errors
    /// Of the first guard that fails.
    pub async fn warm_up(&self, all: &[Entries]) -> Result<(), StepError> {
        self.each(all, |entries| (Verb::WarmUp { entries: entries.entries.len() }, AT_ONCE)).await
    }

    /// Sees that each pooler itself can log in where its entries are to be led, with its own passwords, keys and TLS. Returns, a
    /// line each, of whom that is not known.
    ///
    /// # Errors
    /// Fatal, saying who cannot, and why.
    pub async fn try_logins(&self, all: &[Entries], ways: &[Way]) -> Result<Vec<String>, StepError> {
        let one = async |entries: &Entries| {
            let member = &self.members[entries.member];
            let moves = ways.iter().map(|way| way.of(&entries.entries)).collect();
            match member.guard.ask(Verb::TryLogins { moves }, LOGINS_BUDGET).await? {
                Answer::Tried(unknown) => Ok(unknown.iter().map(|who| format!("{}: {who}", member.ward)).collect()),
                other => Err(member.odd(&other)),
            }
        };
        let all = all.iter().filter(|entries| !entries.entries.is_empty());
        let tried: Vec<Result<Vec<_>, _>> = join_all(all.map(one)).await;
        Ok(tried.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Computes each pooler's configuration with every entry moved, and checks that the files can be replaced.
    ///
    /// # Errors
    /// Blocked, if a file cannot be read or replaced, or an entry is in none.
    pub async fn rehearse(&self, all: &[Entries], ways: &[Way]) -> Result<(), StepError> {
        let moves = |entries: &Entries| ways.iter().map(|way| way.of(&entries.entries)).collect();
        self.each(all, |entries| (Verb::Rehearse { moves: moves(entries) }, AT_ONCE)).await
    }

    /// Lets every guard pause every entry, and returns when each is seen to be paused: transactions under way go on to
    /// their ends, and no new server connection is made. From now on each guard ends its pause by itself.
    ///
    /// On an error or at the deadline some may be paused: [`Self::resume`] is what ends it.
    ///
    /// # Errors
    /// What a pooler answered, or fatal, naming the entry that is not paused in time.
    pub async fn begin_pause(&self, all: &[Entries], pause: &Pause) -> Result<(), StepError> {
        let within = left(pause.deadline);
        let verb = |entries: &Entries| Verb::Hold {
            turn: pause.turn(entries),
            lease_ms: millis(pause.lease),
            within_ms: millis(within),
        };
        self.each(all, |entries| (verb(entries), within)).await
    }

    /// Waits until no paused entry has a server connection left.
    ///
    /// # Errors
    /// What a pooler answered, or fatal, naming whose transaction has not ended in time.
    pub async fn drained(&self, all: &[Entries], deadline: Instant) -> Result<(), StepError> {
        let within = left(deadline);
        let verb = |entries: &Entries| Verb::Drained { entries: entries.entries.clone(), within_ms: millis(within) };
        self.each(all, |entries| (verb(entries), within)).await
    }

    /// Asks every guard whether it still holds the pause: the decision must not be taken where it cannot be told.
    ///
    /// # Errors
    /// Fatal, naming the pooler whose guard does not answer or has let its clients go.
    pub async fn still_held(&self, all: &[Entries], id: &str) -> Result<(), StepError> {
        let one = async |entries: &Entries| {
            let member = &self.members[entries.member];
            let refuse = |what: &str| {
                let message = format!("the guard of {} {what}", member.ward);
                StepError::fatal(message, "see that it runs and can be reached, then try again")
            };
            match member.status().await {
                Ok(status) if status.held.as_deref() == Some(id) => Ok(()),
                Ok(_) => Err(refuse("has let its clients go: the lease was over")),
                Err(error) => Err(refuse("does not answer").because(error.to_string())),
            }
        };
        let all = all.iter().filter(|entries| !entries.entries.is_empty());
        try_join_all(all.map(one)).await.map(drop)
    }

    /// Tells every guard that the new address was decided on, and lets its clients go on there as soon as `open` has ended:
    /// that one runs beside it. Clients on any but the first way go on when `follow` has ended too. A pooler that is lost does not
    /// keep the others' clients waiting; its guard, told or not, leads it there or meets the fence.
    ///
    /// # Errors
    /// Those of `open`, or of the poolers if not one could be moved.
    pub async fn move_clients(
        &self,
        all: &[Entries],
        pause: &Pause,
        open: impl Future<Output = Result<(), StepError>>,
        follow: impl Future<Output = ()>,
    ) -> Result<Vec<Lost>, StepError> {
        let (open, follow) = (open.shared(), follow.shared());
        let one = async |entries: &Entries| -> Result<Result<(), Lost>, StepError> {
            let member = &self.members[entries.member];
            let decide = member.guard.ask(Verb::Decide { turn: pause.turn(entries) }, REPOINT_BUDGET);
            // it is led there also if the server cannot be opened yet: that server alone may serve from here
            let (decided, opened) = join(decide, open.clone()).await;
            opened?;
            // who could not be led there must not be let go: it would be to the old side
            let moved = async {
                decided?;
                fault_point!("switchover.move_clients.after_decision");
                let resume = |entries: Vec<Entry>| Verb::Resume { turn: pause.id.clone(), entries };
                let first = pause.ways.first().map_or(Vec::new(), |way| way.of(&entries.entries).entries);
                let later = first.len() < entries.entries.len();
                if later {
                    if !first.is_empty() {
                        member.guard.ask(resume(first), AT_ONCE).await?;
                    }
                    follow.clone().await;
                }
                // all of them: a guard holds its pause until the last is named
                member.guard.ask(resume(entries.entries.clone()), AT_ONCE).await
            };
            Ok(moved.await.map(drop).map_err(|error| member.lost(error)))
        };
        let moved = try_join_all(all.iter().filter(|entries| !entries.entries.is_empty()).map(one)).await?;
        open.await?;
        let count = moved.len();
        let (_, mut lost) = split(moved);
        if lost.len() == count && count > 0 { Err(lost.remove(0).error) } else { Ok(lost) }
    }

    /// Lets every entry go on, whatever state it is in, and returns when none is paused.
    ///
    /// # Errors
    /// A transient [`StepError`] that names the entry that stays paused.
    async fn resume(&self, all: &[Entries], turn: &str) -> Result<(), StepError> {
        let verb = |entries: &Entries| Verb::Resume { turn: turn.to_owned(), entries: entries.entries.clone() };
        self.each(all, |entries| (verb(entries), AT_ONCE)).await
    }

    /// Lets every paused entry that leads, or when it goes on will lead, to one of `databases` at any of `addresses` go on, at
    /// every pooler that answers, each on its own: one that does not answer must not keep the others' clients waiting. Its guard
    /// ends its pause when the lease is over. Returns how many entries were paused, and the poolers that did not answer.
    pub async fn let_go(&self, turn: &str, addresses: &[Address], databases: &[String]) -> (usize, Vec<Lost>) {
        let one = async |member: &Member| {
            let let_go = async {
                let mut entries = member.entries().await?;
                entries.retain(|e| addresses.iter().any(|to| e.leads_to(to)) && e.is_of(databases));
                if entries.is_empty() {
                    // what it holds leads elsewhere, and is not ours to end
                    return Ok(0);
                }
                let paused = entries.iter().filter(|entry| entry.paused).count();
                // the others too: the guard forgets the pause
                member.guard.ask(Verb::Resume { turn: turn.to_owned(), entries }, AT_ONCE).await.map(|_| paused)
            };
            let_go.await.map_err(|error| member.lost(error))
        };
        let (paused, lost) = split(join_all(self.members.iter().map(one)).await);
        (paused.into_iter().sum(), lost)
    }

    /// Pauses every entry, reloads and resumes on the same server: the least that any switchover costs clients.
    ///
    /// # Errors
    /// As [`Self::begin_pause`]; the entries are resumed all the same.
    pub async fn micro_pause(
        &self,
        all: &[Entries],
        address: &Address,
        budget: Duration,
    ) -> Result<Duration, StepError> {
        self.warm_up(all).await?;
        let started = Instant::now();
        let pause = Pause {
            id: format!("rehearsal {}", jiff::Timestamp::now()),
            ways: vec![Way { old: address.clone(), new: address.clone() }],
            deadline: started + budget,
            lease: budget,
        };
        let paused = async {
            self.begin_pause(all, &pause).await?;
            // where connections have to be cut for it, a rehearsal cuts none
            if self.capabilities.clients == Clients::Wait {
                self.drained(all, pause.deadline).await?;
            }
            self.each(all, |_| (Verb::Reload, AT_ONCE)).await
        };
        let paused = paused.await;
        self.resume(all, &pause.id).await?;
        paused.map(|()| started.elapsed())
    }

    /// Asks every guard that has entries here, and waits for all of them: one that does not answer must not keep the
    /// others' clients waiting.
    async fn each(&self, all: &[Entries], verb: impl Fn(&Entries) -> (Verb, Duration)) -> Result<(), StepError> {
        let one = async |entries: &Entries| {
            let (verb, within) = verb(entries);
            self.members[entries.member].guard.ask(verb, within).await.map(drop)
        };
        let all = all.iter().filter(|entries| !entries.entries.is_empty());
        join_all(all.map(one)).await.into_iter().collect()
    }
}

fn split<T>(results: Vec<Result<T, Lost>>) -> (Vec<T>, Vec<Lost>) {
    let (mut well, mut lost) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => well.push(value),
            Err(error) => lost.push(error),
        }
    }
    (well, lost)
}
