//! Waiting: for a condition, never for a time. What does not come true within the deadline fails the test by name.

use std::{future::Future, time::Duration};

/// How long anything here may take. Far above what it does take, so that a busy machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The outcome of `future`, which must come within [`DEADLINE`].
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: {what} took longer than {DEADLINE:?}"),
        }
    }
}

/// The first `Some` that `look` gives, asked again and again until [`DEADLINE`].
#[track_caller]
pub fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    within(what, async move {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        loop {
            looks.tick().await;
            if let Some(value) = look().await {
                return value;
            }
        }
    })
}

/// Returns once `is_so` says yes.
#[track_caller]
pub fn until_so(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    until(what, move || std::future::ready(is_so().then_some(())))
}
