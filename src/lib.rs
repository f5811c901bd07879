#![doc = include_str!("README.md")]

pub mod access;
pub mod catalog;
pub mod config;
pub mod endpoints;
pub mod gateway;
pub mod identity;
pub mod names;
pub mod record;
pub mod refusal;
pub mod sample;
pub mod store;
