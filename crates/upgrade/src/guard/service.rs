//! Answers questions on a socket, one at a time on each connection.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use pgleap_saga::StepError;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufStream},
    net::UnixListener,
    time::Instant,
};

use super::{
    keeper::{Keeper, Tell},
    protocol::{Answer, Request, read, write},
};
use crate::{config::Pooler, pg::Secret, pgbouncer::PgBouncer, world::io_failure};

/// The guards of this host's poolers.
pub struct Guard {
    keepers: Vec<Arc<Keeper>>,
    connections: AtomicUsize,
}

const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Guard {
    /// Takes over the poolers, and the pauses that an earlier guard of them may have left in `notes`.
    ///
    /// # Errors
    /// If there is a note that cannot be read.
    pub fn over(
        poolers: impl IntoIterator<Item = (Pooler, Option<Secret>)>,
        notes: &Path,
        tell: Tell,
    ) -> Result<Arc<Self>, StepError> {
        let keeper = |(pooler, password)| Keeper::over(PgBouncer::new(pooler, password), notes, tell);
        let keepers = poolers.into_iter().map(keeper).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { keepers, connections: AtomicUsize::new(0) }))
    }

    /// Listens on a socket that only this user can reach; one that a dead guard left is replaced.
    ///
    /// # Errors
    /// Blocked: the socket cannot be made. Its path must be shorter than 108 bytes.
    pub fn listen(socket: &Path) -> Result<UnixListener, StepError> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_failure("replace", socket, error));
            }
            _ => {}
        }
        let bound = UnixListener::bind(socket).map_err(|error| io_failure("listen on", socket, error))?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| io_failure("protect", socket, error))?;
        Ok(bound)
    }

    /// Answers until nobody was connected and nothing was held for `idle`; for ever without it.
    ///
    /// # Errors
    /// Blocked, if the socket fails.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, idle: Option<Duration>) -> Result<(), StepError> {
        let own = nix::unistd::getuid().as_raw();
        let mut quiet_since = Instant::now();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.map_err(|e| StepError::blocked("the guard's socket failed", "look at the system's log").because(e.to_string()))?;
                    // the socket's mode says the same; this holds wherever it was put
                    if stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
                        tokio::spawn(self.clone().attend(stream));
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY), if idle.is_some() => {}
            }
            let busy = self.connections.load(Ordering::Relaxed) > 0
                || join_all(self.keepers.iter().map(|keeper| keeper.holds())).await.contains(&true);
            if busy {
                quiet_since = Instant::now();
            }
            if idle.is_some_and(|idle| quiet_since.elapsed() > idle) {
                return Ok(());
            }
        }
    }

    /// Answers on one connection, to its end.
    async fn attend(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut stream = BufStream::new(stream);
        while let Ok(Some(request)) = read::<Request>(&mut stream).await {
            let answer = match self.keepers.iter().find(|keeper| keeper.name() == request.pooler) {
                Some(keeper) => keeper.answer(request.verb).await,
                None => Answer::Refused(StepError::blocked(
                    format!("the guard has no PgBouncer {}", request.pooler),
                    "name the same pooler in its configuration",
                )),
            };
            if write(&mut stream, &answer).await.is_err() {
                break;
            }
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
