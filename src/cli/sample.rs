//! `portcullis sample`: the bundled tool server on an address of its own.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;

use super::{talk, wait_for};
use crate::sample;

/// Where it listens.
#[derive(Args)]
pub struct SampleArguments {
    /// Address to listen on.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8901")]
    listen: SocketAddr,
}

/// Serves until interrupted.
pub fn sample(arguments: &SampleArguments) -> anyhow::Result<()> {
    wait_for(async {
        let listener = tokio::net::TcpListener::bind(arguments.listen).await.with_context(|| {
            format!("cannot listen on `{}`; choose another with `--listen`", arguments.listen)
        })?;
        talk(&format!("sample tools on http://{}/openapi.json", arguments.listen));
        let interrupted = async { drop(tokio::signal::ctrl_c().await) };
        sample::serve(listener, interrupted).await
    })
}
