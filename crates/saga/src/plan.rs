//! A list of steps, and the sections of it that share a deadline.

use std::{collections::HashSet, fmt, panic::AssertUnwindSafe, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Cx, Observed, Reversal, Step, StepError, StepName};

/// A step with its types forgotten: outputs as the JSON that the journal holds.
pub(crate) trait AnyStep<W>: Send + Sync {
    fn name(&self) -> StepName;
    fn revision(&self) -> u32;
    fn reversal(&self) -> Reversal;
    fn standing(&self) -> bool;
    fn summary(&self) -> String;
    fn probe<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<Observed<Value>, StepError>>;
    fn run<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<Value, StepError>>;
    fn undo<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<(), StepError>>;
}

struct Erased<S>(S);

impl<W: Sync, S: Step<W>> AnyStep<W> for Erased<S> {
    fn name(&self) -> StepName {
        S::NAME
    }
    fn revision(&self) -> u32 {
        S::REVISION
    }
    fn reversal(&self) -> Reversal {
        S::REVERSAL
    }
    fn standing(&self) -> bool {
        S::STANDING
    }
    fn summary(&self) -> String {
        self.0.summary()
    }

    fn probe<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<Observed<Value>, StepError>> {
        guarded(S::NAME, async move {
            Ok(match self.0.probe(cx).await? {
                Observed::Absent => Observed::Absent,
                Observed::Partial(what) => Observed::Partial(what),
                Observed::Done(output) => Observed::Done(encode(S::NAME, &output)?),
            })
        })
    }
    fn run<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<Value, StepError>> {
        guarded(S::NAME, async move { encode(S::NAME, &self.0.run(cx).await?) })
    }
    fn undo<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<(), StepError>> {
        guarded(S::NAME, self.0.undo(cx))
    }
}

fn encode<T: Serialize>(step: StepName, output: &T) -> Result<Value, StepError> {
    serde_json::to_value(output).map_err(|error| {
        StepError::blocked(format!("the output of step `{step}` does not fit the journal"), "this is a bug: report it")
            .because(error.to_string())
    })
}

/// Turns a panic into a failure: a bug inside the write pause must release the clients, not end the process.
fn guarded<'f, T: 'f>(
    step: StepName,
    work: impl Future<Output = Result<T, StepError>> + Send + 'f,
) -> BoxFuture<'f, Result<T, StepError>> {
    async move {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(StepError::blocked(format!("step `{step}` panicked"), "this is a bug: report it, then resume")
                .because(words.unwrap_or_else(|| "no message".into())))
        })
    }
    .boxed()
}

pub(crate) struct Entry<W> {
    pub(crate) step: Box<dyn AnyStep<W>>,
    /// Index into the plan's sections.
    pub(crate) section: Option<usize>,
}

pub(crate) struct Budget {
    pub(crate) name: &'static str,
    pub(crate) budget: Duration,
}

/// Steps in the order they run; they are undone in the opposite order.
pub struct Plan<W> {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) params: Value,
    pub(crate) entries: Vec<Entry<W>>,
    pub(crate) sections: Vec<Budget>,
    pub(crate) names: HashSet<&'static str>,
}

/// The steps of a section while it is put together.
pub struct Section<W> {
    steps: Vec<Box<dyn AnyStep<W>>>,
}

impl<W: Sync> Section<W> {
    /// Adds a step at the end of the section.
    #[must_use]
    pub fn then<S: Step<W> + 'static>(mut self, step: S) -> Self {
        self.steps.push(Box::new(Erased(step)));
        self
    }
}

impl<W: Sync> Plan<W> {
    /// Returns an empty plan. The id, `upgrade-1`, names it in the journal; `kind` and `params` are what the caller
    /// needs to build it again for a resume.
    pub fn new(id: impl Into<String>, kind: &'static str, params: Value) -> Self {
        Self { id: id.into(), kind, params, entries: Vec::new(), sections: Vec::new(), names: HashSet::new() }
    }

    /// Adds a step at the end.
    #[must_use]
    pub fn then<S: Step<W> + 'static>(self, step: S) -> Self {
        self.push(Box::new(Erased(step)), None)
    }

    /// Adds a step at the end, if it is wanted.
    #[must_use]
    pub fn then_if<S: Step<W> + 'static>(self, wanted: bool, step: S) -> Self {
        if wanted { self.then(step) } else { self }
    }

    /// Adds steps that share one deadline, `budget` after the first of them starts.
    ///
    /// Until the point of no return whatever goes wrong in here unwinds the plan at once: passing the deadline, a
    /// failure of any class, a stop, the death of the process. Past it the deadline no longer counts.
    #[must_use]
    pub fn section(
        mut self,
        name: &'static str,
        budget: Duration,
        build: impl FnOnce(Section<W>) -> Section<W>,
    ) -> Self {
        let section = self.sections.len();
        self.sections.push(Budget { name, budget });
        build(Section { steps: Vec::new() }).steps.into_iter().fold(self, |plan, step| plan.push(step, Some(section)))
    }

    fn push(mut self, step: Box<dyn AnyStep<W>>, section: Option<usize>) -> Self {
        self.names.insert(step.name().0);
        self.entries.push(Entry { step, section });
        self
    }

    /// Returns the plan's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the plan's kind.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns what the caller needs to build the plan again.
    pub fn params(&self) -> &Value {
        &self.params
    }

    /// Returns what would happen, step by step.
    pub fn describe(&self) -> Vec<StepDescription> {
        let describe = |(index, entry): (usize, &Entry<W>)| {
            let name = entry.step.name().0;
            let section = entry.section.map(|s| &self.sections[s]);
            StepDescription {
                number: index + 1,
                name: name.into(),
                phase: name.split_once('.').map_or(name, |(phase, _)| phase).into(),
                summary: entry.step.summary(),
                reversal: entry.step.reversal(),
                standing: entry.step.standing(),
                section: section.map(|s| s.name.into()),
                budget_ms: section.map(|s| millis(s.budget)),
            }
        };
        self.entries.iter().enumerate().map(describe).collect()
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One step as a person reads it in a plan, and as the journal lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDescription {
    /// Place in the plan, from 1.
    pub number: usize,
    /// Identity in the journal, `phase.verb_noun`.
    pub name: String,
    /// The part of the name before the dot.
    pub phase: String,
    /// One imperative line.
    pub summary: String,
    /// How it is taken back.
    pub reversal: Reversal,
    /// It must keep holding while later steps run.
    pub standing: bool,
    /// The section it is in.
    pub section: Option<String>,
    /// That section's budget.
    pub budget_ms: Option<u64>,
}

impl<W: Sync> fmt::Display for Plan<W> {
    /// Prints the plan as a numbered list, sections and the point of no return marked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.describe();
        let width = steps.iter().map(|s| s.name.len()).max().unwrap_or(0);
        let mut section = None;
        write!(f, "{} ({}), {} steps", self.id, self.kind, steps.len())?;
        for step in &steps {
            if step.section != section
                && let Some(name) = &step.section
            {
                write!(f, "\n      {name}, at most {:?}:", Duration::from_millis(step.budget_ms.unwrap_or(0)))?;
            }
            section.clone_from(&step.section);
            let rail = if section.is_some() { "|" } else { " " };
            write!(f, "\n{:>4} {rail} {:width$}  {}", step.number, step.name, step.summary)?;
            if step.reversal == Reversal::PointOfNoReturn {
                write!(f, " (point of no return)")?;
            }
        }
        Ok(())
    }
}
