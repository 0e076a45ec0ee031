//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once.

use std::process;

use tokio::sync::watch;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Tells once that the end was asked for. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on, within a tokio runtime.
    pub(crate) fn listen() -> Self {
        let (asked, stop) = watch::channel(false);
        tokio::spawn(async move {
            asked_by_signal().await;
            let _ = asked.send(true);
            asked_by_signal().await;
            process::exit(INTERRUPTED);
        });
        Self(stop)
    }

    /// Returns when the end was asked for.
    pub(crate) async fn asked(&mut self) {
        // The sender lives as long as the task above: for ever.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

#[cfg(unix)]
async fn asked_by_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn asked_by_signal() {
    let _ = tokio::signal::ctrl_c().await;
}
