//! Names as small numbers, and what a user holds as one of them: what lets millions of rows fit in memory.
//!
//! Decides nothing about who may do what.

use std::{collections::HashMap, sync::Arc};

/// Names as small numbers, so that three million rows fit in memory.
#[derive(Debug, Clone)]
pub(super) struct Numbers<N> {
    by_name: HashMap<N, u32>,
    names: Vec<N>,
}

impl<N> Default for Numbers<N> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), names: Vec::new() }
    }
}

impl<N: Clone + Eq + std::hash::Hash + std::borrow::Borrow<str>> Numbers<N> {
    pub(super) fn get(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get_or_add(&mut self, name: &N) -> u32 {
        self.get(name.borrow()).unwrap_or_else(|| {
            let number = self.names.len() as u32;
            self.names.push(name.clone());
            self.by_name.insert(name.clone(), number);
            number
        })
    }

    /// The same for numbers that are shared: they are copied only for a name that is new.
    pub(super) fn get_or_add_shared(shared: &mut Arc<Self>, name: &N) -> u32 {
        shared.get(name.borrow()).unwrap_or_else(|| Arc::make_mut(shared).get_or_add(name))
    }

    pub(super) fn name(&self, number: u32) -> &N {
        &self.names[number as usize]
    }
}

/// One thing a user holds: a server granted to them, or a group they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held(u32);

impl Held {
    pub(super) fn server(number: u32) -> Self {
        Self(number << 1)
    }

    pub(super) fn group(number: u32) -> Self {
        Self(number << 1 | 1)
    }

    pub(super) fn is_group(self) -> bool {
        self.0 & 1 == 1
    }

    pub(super) fn number(self) -> u32 {
        self.0 >> 1
    }
}
