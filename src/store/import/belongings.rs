//! Where keys and endpoints of the earlier gateway get their place here: keys are sealed, each row by itself.
//!
//! Decides that what is here already stays, and that what is left behind has a reason. Never says what a key or an
//! address is. Whether a server takes the key, and whether the gateway may go to the address, is looked at when they are used.

use std::collections::{BTreeSet, HashMap};

use anyhow::Context;

use super::{
    Mode,
    tables::{Belonging, What},
};
use crate::{
    names::Secret,
    store::{GrantRow, LONGEST_VALUE, Store, Subject, Unreadable, Write},
};

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not here before, and is now (or would be, where nothing is written).
    New,
    /// It was here.
    There,
    /// It is not here, for this reason.
    Left(String),
}

/// How many groups are asked about at once.
const GROUPS: usize = 500;

/// What is here: keys by group, server and name, addresses by group and server.
#[derive(Default)]
struct Present {
    keys: HashMap<[String; 3], Result<Secret<String>, Unreadable>>,
    endpoints: HashMap<[String; 2], Vec<String>>,
}

/// Writes keys or endpoints, no two of which are about the same thing; again, it changes nothing.
///
/// Row by row: where it is cut off, the next run goes on.
pub(super) async fn write(store: &Store, rows: &[Belonging], mode: Mode) -> anyhow::Result<Vec<Fate>> {
    let present = match mode {
        // Before the first migration there is nothing, and no table to ask.
        Mode::Compare if store.pending_migrations().await? > 0 => Present::default(),
        Mode::Compare | Mode::Write => present(store, rows).await?,
    };
    let can_seal = store.sealer.renewed()?.key_id().is_some();
    let mut fates = Vec::with_capacity(rows.len());
    for row in rows {
        let fate = match &row.what {
            What::Key { name: Some(name), value } => {
                let fate = present.fate_of_key(row, name, value, can_seal);
                if (&fate, mode) == (&Fate::New, Mode::Write) {
                    store.set_key(&row.group, &row.server, name, value).await?;
                }
                fate
            }
            What::Key { name: None, .. } => {
                Fate::Left("it has no `key_name`: set the key with `portcullis keys set`".to_owned())
            }
            What::Endpoint(url) => {
                let fate = present.fate_of_endpoint(row, url.expose());
                if (&fate, mode) == (&Fate::New, Mode::Write) {
                    store.write(Write::AddEndpoint(&row.group, &row.server, url.expose())).await?;
                }
                fate
            }
        };
        fates.push(fate);
    }
    Ok(fates)
}

/// What the groups of these rows have here.
async fn present(store: &Store, rows: &[Belonging]) -> anyhow::Result<Present> {
    let groups: BTreeSet<&str> = rows.iter().map(|row| row.group.as_str()).collect();
    let groups: Vec<Subject> = groups.into_iter().map(|group| Subject::Group(group.to_owned())).collect();
    let mut present = Present::default();
    for groups in groups.chunks(GROUPS) {
        let mut note = |row: GrantRow<'_>| match row {
            GrantRow::Key { group, server, name, value } => {
                let value = value.cloned();
                present.keys.insert([group, server, name].map(str::to_owned), value);
            }
            GrantRow::Endpoint { group, server, url } => {
                let about = [group, server].map(str::to_owned);
                present.endpoints.entry(about).or_default().push(url.to_owned());
            }
            GrantRow::User { .. }
            | GrantRow::Group { .. }
            | GrantRow::Membership { .. }
            | GrantRow::Rule { .. } => {}
        };
        store.rows_about(groups, &mut note).await.context("could not compare keys and addresses")?;
    }
    Ok(present)
}

impl Present {
    fn fate_of_key(&self, row: &Belonging, name: &str, value: &Secret<String>, can_seal: bool) -> Fate {
        let about = [row.group.as_str(), row.server.as_str(), name].map(str::to_owned);
        match self.keys.get(&about) {
            Some(Ok(here)) if here == value => Fate::There,
            Some(Ok(_)) => Fate::Left("another key is here under its name, and stays".to_owned()),
            Some(Err(unreadable)) => Fate::Left(format!("a key is here under its name that is {unreadable}")),
            None if value.expose().len() > LONGEST_VALUE => {
                Fate::Left(format!("the key is longer than {LONGEST_VALUE} bytes"))
            }
            None if !can_seal => {
                Fate::Left("there is no key to seal it with: set `PORTCULLIS_SEALING_KEY`".to_owned())
            }
            None => Fate::New,
        }
    }

    fn fate_of_endpoint(&self, row: &Belonging, url: &str) -> Fate {
        let about = [row.group.as_str(), row.server.as_str()].map(str::to_owned);
        match self.endpoints.get(&about) {
            Some(here) if here.iter().all(|here| here == url) => Fate::There,
            Some(_) => Fate::Left("another address is here for this group and server, and stays".to_owned()),
            None => Fate::New,
        }
    }
}
