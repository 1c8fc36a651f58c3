//! Answers questions on a socket, one at a time on each connection.

use std::{
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pgleap_saga::StepError;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufStream},
    net::{TcpListener, UnixListener},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use super::{
    keeper::{Keeper, Tell, late, now_ms},
    protocol::{Answer, PROTOCOL, Reply, Request, VERSION, Verb, read, write},
    tls::Identity,
    ward::Ward,
};
use crate::world::io_failure;

/// The guards of this host's poolers.
pub struct Guard {
    keepers: Vec<Arc<Keeper>>,
    connections: AtomicUsize,
    tell: Tell,
}

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Counts a connection for as long as it is attended to, however that ends.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a guard is reached.
pub enum Door {
    /// By a socket on this host, by the user that it runs as and by root.
    Beside(UnixListener),
    /// Over the network, by whoever shows a certificate of its authority.
    Network(TcpListener, TlsAcceptor),
}

/// Makes the refusal of what this version does not know.
fn unknown(error: &std::io::Error) -> StepError {
    StepError::blocked(
        format!("the guard is pgleap {VERSION}, and cannot read what it was asked"),
        "install the pgleap that asks on the guard's host too and start the guard again: guards are upgraded first",
    )
    .because(error.to_string())
}

/// How long a caller may take to show who it is.
const GREETING: Duration = Duration::from_secs(5);
/// More callers at a time have no business here.
const MOST_CALLERS: usize = 256;

impl Door {
    /// Waits for somebody, and attends to them in a task of their own.
    async fn next(&self, guard: &Arc<Guard>) -> std::io::Result<()> {
        match self {
            Self::Beside(listener) => {
                let (stream, _) = listener.accept().await?;
                // the socket's mode says the same; this holds wherever it was put
                let own = nix::unistd::getuid().as_raw();
                if stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
                    tokio::spawn(guard.clone().attend(stream));
                }
            }
            Self::Network(listener, tls) => {
                let (stream, caller) = listener.accept().await?;
                if guard.connections.load(Ordering::Relaxed) >= MOST_CALLERS {
                    return Ok(());
                }
                let (guard, tls) = (guard.clone(), tls.clone());
                tokio::spawn(async move {
                    // a decision is small, and clients wait for it
                    let _ = stream.set_nodelay(true);
                    match tokio::time::timeout(GREETING, tls.accept(stream)).await {
                        Ok(Ok(stream)) => guard.attend(stream).await,
                        Ok(Err(error)) => (guard.tell)(&format!("{caller} was turned away: {error}")),
                        Err(_) => (guard.tell)(&format!("{caller} was turned away: it did not say who it is")),
                    }
                });
            }
        }
        Ok(())
    }
}

impl Guard {
    /// Takes over the wards, and the pauses that an earlier guard of them may have left in `notes`.
    ///
    /// # Errors
    /// If there is a note that cannot be read.
    pub fn over(wards: impl IntoIterator<Item = Ward>, notes: &Path, tell: Tell) -> Result<Arc<Self>, StepError> {
        let keeper = |ward| Keeper::over(ward, notes, tell);
        let keepers = wards.into_iter().map(keeper).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { keepers, connections: AtomicUsize::new(0), tell }))
    }

    /// Listens on the network, for callers that show a certificate of the identity's authority.
    ///
    /// # Errors
    /// Blocked: the certificates cannot be used, or the address cannot be listened on.
    pub async fn listen_on_network(address: &str, identity: &Identity) -> Result<Door, StepError> {
        let fail = |error: &dyn std::error::Error| {
            StepError::blocked(format!("cannot listen on `{address}`"), "correct it, then start the guard again")
                .because(error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")))
        };
        let tls = identity.acceptor().map_err(|error| fail(&error))?;
        let listener = TcpListener::bind(address).await.map_err(|error| fail(&error))?;
        Ok(Door::Network(listener, tls))
    }

    /// Listens on a socket that only this user can reach; one that a dead guard left is replaced.
    ///
    /// # Errors
    /// Blocked: the socket cannot be made. Its path must be shorter than 108 bytes.
    pub fn listen(socket: &Path) -> Result<Door, StepError> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_failure("replace", socket, error));
            }
            _ => {}
        }
        let bound = UnixListener::bind(socket).map_err(|error| io_failure("listen on", socket, error))?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| io_failure("protect", socket, error))?;
        Ok(Door::Beside(bound))
    }

    /// Answers until nobody was connected and nothing was held for `idle`; for ever without it.
    ///
    /// # Errors
    /// Blocked, if the socket fails.
    pub async fn serve(self: Arc<Self>, door: Door, idle: Option<Duration>) -> Result<(), StepError> {
        let mut quiet_since = Instant::now();
        loop {
            tokio::select! {
                entered = door.next(&self) => entered.map_err(|error| {
                    StepError::blocked("the guard's socket failed", "look at the system's log").because(error.to_string())
                })?,
                () = tokio::time::sleep(LOOK_EVERY), if idle.is_some() => {}
            }
            let connected = self.connections.load(Ordering::Relaxed) > 0;
            if connected || self.keepers.iter().any(|keeper| keeper.is_busy()) {
                quiet_since = Instant::now();
            }
            if idle.is_some_and(|idle| quiet_since.elapsed() > idle) {
                return Ok(());
            }
        }
    }

    /// Answers on one connection, to its end.
    async fn attend(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let _counted = Counted::new(&self.connections);
        let mut stream = BufStream::new(stream);
        loop {
            let (answer, epoch) = match read::<Request>(&mut stream).await {
                Ok(Some(request)) => self.answer(request).await,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    (self.tell)(&format!("a request that pgleap {VERSION} cannot read was not done: {error}"));
                    (Answer::Refused(unknown(&error)), 0)
                }
                Ok(None) | Err(_) => break,
            };
            let reply = Reply { now_ms: now_ms(), epoch, protocol: PROTOCOL, version: VERSION.to_owned(), answer };
            if write(&mut stream, &reply).await.is_err() {
                break;
            }
        }
    }

    /// Does what is asked; returns the answer, and how many turns there were at that pooler.
    async fn answer(&self, request: Request) -> (Answer, u64) {
        let late = late(request.until_ms) || (request.until_ms.is_none() && request.verb != Verb::Status);
        let keeper = self.keepers.iter().find(|keeper| keeper.name() == request.pooler);
        let answer = match keeper {
            Some(_) if late => {
                (self.tell)(&format!("{}: a request that nobody waits for any more was not done", request.pooler));
                Answer::Refused(StepError::transient("the request was too long under way"))
            }
            Some(keeper) => keeper.answer(request).await,
            None => Answer::Refused(StepError::blocked(
                format!("the guard has no {}", request.pooler),
                "name the same pooler in its configuration",
            )),
        };
        (answer, keeper.map_or(0, |keeper| keeper.epoch()))
    }
}
