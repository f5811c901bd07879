//! The tasks of the background: each runs for ever, until its group is replaced.
//!
//! Decides nothing but how a task ends that is wanted no more.

use std::{collections::HashMap, panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::task::{AbortHandle, Id, JoinSet};

/// How long what was asked before may still be answered by those who were asked.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// Which tasks are replaced together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// What lives as long as the process.
    Process,
    /// Open WebUI's tables.
    Tables,
    /// Open WebUI's Redis.
    Redis,
    /// Entra ID.
    Entra,
}

/// How a task ends whose group is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is ended, or it would write what is true no more.
    AtOnce,
    /// Its questions come to an end.
    ByItself,
    /// It is ended once it has answered what it was asked.
    Later,
}

/// A task that runs until the process ends or its group is replaced.
pub struct Task {
    pub name: &'static str,
    pub ending: Ending,
    pub work: BoxFuture<'static, ()>,
}

/// All that run.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<&'static str>,
    running: HashMap<Group, Vec<(Ending, AbortHandle)>>,
    /// Those that may end.
    retired: std::collections::HashSet<Id>,
}

impl Tasks {
    /// Begins a task that lives as long as the process.
    pub fn begin(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn(Group::Process, Task { name, ending: Ending::AtOnce, work: work.boxed() });
    }

    /// Has these tasks run in place of those of the group.
    pub fn replace(&mut self, group: Group, tasks: Vec<Task>) {
        for (ending, task) in self.running.remove(&group).unwrap_or_default() {
            self.retired.insert(task.id());
            match ending {
                Ending::AtOnce => task.abort(),
                Ending::ByItself => {}
                Ending::Later => drop(tokio::spawn(async move {
                    tokio::time::sleep(LAST_ANSWERS).await;
                    task.abort();
                })),
            }
        }
        for task in tasks {
            self.spawn(group, task);
        }
    }

    /// The name of a task that ended though it is wanted.
    pub async fn ended(&mut self) -> Option<&'static str> {
        loop {
            let (id, name) = match self.set.join_next_with_id().await? {
                Ok((id, name)) => (id, name),
                Err(error) => (error.id(), "something"),
            };
            if !self.retired.remove(&id) {
                return Some(name);
            }
        }
    }

    fn spawn(&mut self, group: Group, Task { name, ending, work }: Task) {
        // Tasks of their own: a slow one must not hold up the others.
        let task = self.set.spawn(async move {
            // A panic is counted and told by the hook.
            drop(AssertUnwindSafe(work).catch_unwind().await);
            name
        });
        self.running.entry(group).or_default().push((ending, task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_ever(ending: Ending) -> Task {
        Task { name: "for ever", ending, work: std::future::pending().boxed() }
    }

    #[tokio::test]
    async fn only_a_task_that_is_wanted_is_missed() {
        let mut tasks = Tasks::default();
        let (sender, gone) = tokio::sync::oneshot::channel::<()>();
        let until_told = async { drop(gone.await) }.boxed();
        let answering = Task { name: "answering", ending: Ending::ByItself, work: until_told };
        tasks.replace(Group::Tables, vec![for_ever(Ending::AtOnce), answering]);
        tasks.replace(Group::Tables, vec![for_ever(Ending::Later)]);
        drop(sender);
        tasks.begin("the one", async {});
        assert_eq!(tasks.ended().await, Some("the one"));
    }
}
