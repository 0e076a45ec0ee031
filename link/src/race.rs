//! Several places to try, one of which suffices.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Starts the attempts in order, the next one as soon as one has failed or `stagger` has passed (RFC 8305, "happy
/// eyeballs": a dead address must not use up the time of the living ones), until one succeeds. All others are dropped then.
/// At `deadline` the errors so far are the answer; there may be none.
pub(crate) async fn race<A, T, E>(attempts: Vec<A>, stagger: Duration, deadline: Instant) -> Result<T, Vec<E>>
where
    A: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut waiting = attempts.into_iter();
    let mut running = JoinSet::new();
    let mut errors = Vec::new();
    loop {
        match waiting.next() {
            Some(attempt) => drop(running.spawn(attempt)),
            None if running.is_empty() => return Err(errors),
            None => {}
        }
        tokio::select! {
            Some(joined) = running.join_next() => match joined {
                Ok(Ok(won)) => return Ok(won),
                Ok(Err(error)) => errors.push(error),
                // Only a panic or the runtime's end: the other attempts go on.
                Err(_) => {}
            },
            () = sleep(stagger), if waiting.len() > 0 => {}
            () = sleep_until(deadline) => return Err(errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;

    type Attempt = Pin<Box<dyn Future<Output = Result<u32, u32>> + Send>>;

    async fn run(attempts: Vec<Attempt>) -> Result<u32, Vec<u32>> {
        race(attempts, Duration::from_secs(3600), Instant::now() + Duration::from_secs(7200)).await
    }

    #[tokio::test]
    async fn a_failure_starts_the_next_at_once_and_the_first_success_wins() {
        let fail: Attempt = Box::pin(async { Err(1) });
        let work: Attempt = Box::pin(async { Ok(2) });
        let never: Attempt = Box::pin(async { Ok(3) });
        assert_eq!(run(vec![fail, work, never]).await, Ok(2));
    }

    #[tokio::test]
    async fn all_errors_come_back() {
        let fail = |n| -> Attempt { Box::pin(async move { Err(n) }) };
        assert_eq!(run(vec![fail(1), fail(2)]).await, Err(vec![1, 2]));
        assert_eq!(run(vec![]).await, Err(vec![]));
    }

    #[tokio::test]
    async fn one_that_hangs_holds_nobody_up() {
        let hang: Attempt = Box::pin(std::future::pending());
        let work: Attempt = Box::pin(async { Ok(2) });
        let deadline = Instant::now() + Duration::from_secs(3600);
        assert_eq!(race(vec![hang, work], Duration::from_millis(1), deadline).await, Ok(2));
    }

    #[tokio::test]
    async fn the_deadline_ends_it_with_what_is_known() {
        let fail: Attempt = Box::pin(async { Err(1) });
        let hang: Attempt = Box::pin(std::future::pending());
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(race(vec![fail, hang], Duration::from_millis(1), deadline).await, Err(vec![1]));
    }
}
