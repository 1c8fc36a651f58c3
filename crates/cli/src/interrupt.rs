//! Ctrl-C and its relatives: a wish to stop, heeded where nobody is left waiting.
//!
//! SIGHUP counts too: an ssh session that breaks inside the write pause must not leave clients waiting for a dead process.

use std::future::Future;

use pgleap_saga::StopSignal;
use tokio::signal::unix::{SignalKind, signal};

/// Returns what happens, or `None` if a signal comes first.
pub async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    let stop = StopSignal::new();
    let listening = listen(stop.clone(), |_| {});
    tokio::select! {
        biased;
        result = work => Some(result),
        () = stop.requested() => None,
        () = listening => None,
    }
}

/// Waits for a signal.
pub async fn once() {
    let stop = StopSignal::new();
    tokio::select! {
        () = listen(stop.clone(), |_| {}) => {}
        () = stop.requested() => {}
    }
}

/// Turns every signal into a request to stop, and tells `told` how many there were. Never ends.
pub async fn listen(stop: StopSignal, told: impl Fn(u32)) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut count = 0;
    // Fails only where the system refuses a handler; the program then dies of the signal, and `resume` copes with that.
    let mut signals: Vec<_> = kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect();
    loop {
        if signals.is_empty() {
            std::future::pending::<()>().await;
        }
        let any = futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
        any.await;
        count += 1;
        stop.request();
        told(count);
    }
}
