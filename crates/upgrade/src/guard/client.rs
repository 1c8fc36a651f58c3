//! Asks the guard of one pooler.

use std::{sync::Arc, time::Duration};

use pgleap_saga::StepError;
use tokio::{io::BufStream, net::UnixStream, sync::Mutex};

use super::{
    launch::Beside,
    protocol::{Answer, Request, Verb, read, write},
};

/// A connection to the guard of one pooler, opened when it is first needed and again when it broke.
pub struct GuardClient {
    pooler: String,
    guard: Arc<Beside>,
    kept: Mutex<Option<BufStream<UnixStream>>>,
}

/// What an answer may take beyond what was asked to take time.
const ANSWER_BUDGET: Duration = Duration::from_secs(10);

impl GuardClient {
    /// Describes it; nothing is connected yet.
    pub fn new(pooler: String, guard: Arc<Beside>) -> Self {
        Self { pooler, guard, kept: Mutex::default() }
    }

    /// Asks, and returns the answer; `within` is how long the doing may take. A guard that died is asked again, once.
    ///
    /// # Errors
    /// What the guard refused, or transient: it does not answer.
    pub async fn ask(&self, verb: Verb, within: Duration) -> Result<Answer, StepError> {
        let request = Request { pooler: self.pooler.clone(), verb };
        let budget = within + ANSWER_BUDGET;
        let mut kept = self.kept.lock().await;
        let was_open = kept.is_some();
        let mut answer = tokio::time::timeout(budget, self.exchange(&mut kept, &request)).await;
        if was_open && matches!(answer, Ok(Err(_))) {
            answer = tokio::time::timeout(budget, self.exchange(&mut kept, &request)).await;
        }
        match answer {
            Ok(Ok(Answer::Refused(error))) => Err(error),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                // what it may still answer is no answer to the next question
                *kept = None;
                Err(StepError::transient(format!("the guard of PgBouncer {} does not answer", self.pooler)))
            }
        }
    }

    async fn exchange(&self, kept: &mut Option<BufStream<UnixStream>>, request: &Request) -> Result<Answer, StepError> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => BufStream::new(self.guard.connect().await?),
        };
        let exchanged = async {
            write(&mut stream, request).await?;
            read::<Answer>(&mut stream).await?.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
        };
        let answer = exchanged.await.map_err(|error: std::io::Error| {
            StepError::transient(format!("the guard of PgBouncer {} broke off", self.pooler)).because(error.to_string())
        })?;
        *kept = Some(stream);
        Ok(answer)
    }
}
