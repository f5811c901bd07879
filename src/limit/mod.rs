//! How much is too much: tool calls by caller, server and tool, requests by address, and how many of what at once.
//!
//! Decides from settings, what was counted and the time it is. Never waits, never asks another process: what replicas
//! count together, `gateway::limiting` asks of `store`. Comes after `access`, whose permit a call needs first.

mod charge;
mod gcra;
pub mod pressure;
pub mod seats;
mod settings;
mod table;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

pub use charge::{Charge, Charges, Source};
pub use gcra::{Left, Over};
pub use settings::{Kind, RedisSettings, Settings};
use table::{Key, Table};

use crate::{
    catalog::server::Server,
    identity::{Caller, Scheme},
    names::Rate,
};

/// Callers, servers and tools remembered at once: 4 MB.
const NAMES: usize = 1 << 18;
/// Addresses remembered at once: 2 MB. Apart from the others, because anybody can have many.
const ADDRESSES: usize = 1 << 17;

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Which one.
    pub kind: Kind,
    /// What it allows.
    pub rate: Rate,
    /// When it lets this pass.
    pub over: Over,
}

/// What the tightest limit leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tightest {
    /// Which one.
    pub kind: Kind,
    /// What it allows.
    pub rate: Rate,
    /// What is left.
    pub left: Left,
}

/// What was counted in this process, by settings that may be replaced while it runs.
#[derive(Debug)]
pub struct Limits {
    settings: ArcSwap<Settings>,
    started: Instant,
    names: Table,
    addresses: Table,
    /// Until when replicas together refuse a name.
    refused: Table,
}

impl Limits {
    /// Nothing counted yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            started: Instant::now(),
            names: Table::new(NAMES),
            addresses: Table::new(ADDRESSES),
            refused: Table::new(ADDRESSES),
        }
    }

    /// Other settings from now on. What was counted stays.
    pub fn replace(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The settings of this moment.
    pub fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// The time, as it is counted here.
    pub fn now(&self) -> u64 {
        // Never 0, which stands for nothing in a table.
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// What tool calls of a server cost: each tool with the number of its calls.
    pub fn of_calls<'c>(
        &self,
        caller: &'c Caller,
        server: &'c Server,
        tools: &[(&'c str, u32)],
    ) -> Charges<'c> {
        let settings = self.settings.load();
        let count = tools.iter().fold(0, |sum: u32, (_, count)| sum.saturating_add(*count));
        let (name, id) = (caller.name().as_bytes(), server.id.as_str().as_bytes());
        let mut charges = Charges::default();
        let of_caller = match caller.scheme() {
            Scheme::ServiceKey => settings.of_service(caller.name()),
            _ => settings.per_caller,
        };
        charges.add(Kind::Caller, [name, b"", b""], of_caller, count);
        charges.add(Kind::Server, [b"", id, b""], server.limits.rate.unwrap_or(settings.per_server), count);
        for (tool, count) in tools {
            let rate = server.limits.of_tool(tool).unwrap_or(settings.per_tool);
            charges.add(Kind::Tool, [name, id, tool.as_bytes()], rate, *count);
        }
        charges
    }

    /// What one request from an address costs that nobody is believed to have sent.
    pub fn of_stranger<'s>(&self, source: &'s Source) -> Charges<'s> {
        let settings = self.settings.load();
        let mut charges = Charges::default();
        if !settings.is_unlimited(source.address()) {
            charges.add(Kind::Address, [source.bytes(), b"", b""], settings.per_address, 1);
        }
        charges
    }

    /// Counts all of it, or nothing where one limit is reached.
    pub fn take(&self, charges: &Charges<'_>, now: u64) -> Result<Option<Tightest>, Reached> {
        self.refuse_known(charges, now)?;
        let mut tightest: Option<Tightest> = None;
        for (at, charge) in charges.iter().enumerate() {
            let (table, key) = self.place(charge);
            match gcra::take(table, key, charge.rate, charge.count, now) {
                Ok(left) => {
                    let told = Tightest { kind: charge.kind, rate: charge.rate, left };
                    tightest = Some(tightest.filter(|other| other.left.more <= left.more).unwrap_or(told));
                }
                Err(over) => {
                    charges.iter().take(at).for_each(|charge| self.undo(charge));
                    let reached = Reached { kind: charge.kind, rate: charge.rate, over };
                    return Err(self.longest(reached, charges.iter().skip(at + 1), now));
                }
            }
        }
        Ok(tightest)
    }

    /// Whether [`Limits::take`] would refuse now.
    pub fn foresee(&self, charges: &Charges<'_>, now: u64) -> Result<(), Reached> {
        self.refuse_known(charges, now)?;
        for (at, charge) in charges.iter().enumerate() {
            let (table, key) = self.place(charge);
            if let Err(over) = gcra::foresee(table, key, charge.rate, charge.count, now) {
                let reached = Reached { kind: charge.kind, rate: charge.rate, over };
                return Err(self.longest(reached, charges.iter().skip(at + 1), now));
            }
        }
        Ok(())
    }

    /// Undoes a [`Limits::take`].
    pub fn give_back(&self, charges: &Charges<'_>) {
        charges.iter().for_each(|charge| self.undo(charge));
    }

    /// All replicas together refuse this one until then.
    pub fn note_refused(&self, charge: &Charge<'_>, wait: Duration, now: u64) {
        // What several at once have to wait for, one alone need not.
        if charge.count == 1 {
            let until = now.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
            self.refused.set(self.refused.key(&charge.parts()), until);
        }
    }

    /// Refuses what all replicas together are known to refuse.
    fn refuse_known(&self, charges: &Charges<'_>, now: u64) -> Result<(), Reached> {
        if self.settings.load().redis.is_none() {
            return Ok(());
        }
        for charge in charges.iter() {
            let until = self.refused.get(self.refused.key(&charge.parts())).unwrap_or_default();
            let wait = Duration::from_nanos(until.saturating_sub(now));
            // One alone never waits longer than an interval: who would was refused by another rate, before a reload.
            if !wait.is_zero() && wait <= charge.rate.interval() {
                let over = Over::Until(wait);
                return Err(Reached { kind: charge.kind, rate: charge.rate, over });
            }
        }
        Ok(())
    }

    /// The one of these limits that takes longest, so that what a client is told holds for all of them.
    fn longest<'c>(
        &self,
        mut reached: Reached,
        rest: impl Iterator<Item = &'c Charge<'c>>,
        now: u64,
    ) -> Reached {
        for charge in rest {
            let (table, key) = self.place(charge);
            if let Err(over) = gcra::foresee(table, key, charge.rate, charge.count, now)
                && over > reached.over
            {
                reached = Reached { kind: charge.kind, rate: charge.rate, over };
            }
        }
        reached
    }

    fn undo(&self, charge: &Charge<'_>) {
        let (table, key) = self.place(charge);
        gcra::give_back(table, key, charge.rate, charge.count);
    }

    fn place(&self, charge: &Charge<'_>) -> (&Table, Key) {
        let table = match charge.kind {
            Kind::Address => &self.addresses,
            Kind::Caller | Kind::Server | Kind::Tool => &self.names,
        };
        (table, table.key(&charge.parts()))
    }
}

#[cfg(test)]
mod tests;
