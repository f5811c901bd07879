//! The listening sockets: taken over from whoever started this process, or made.
//!
//! Decides what they are like, and that a port which cannot be had ends the start with a sentence. Accepts nothing.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use anyhow::{Context, bail};
use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tracing::warn;

use crate::{config::Config, upstream::peer::PROBES};

/// Connections that wait to be accepted; the kernel has a bound of its own (`net.core.somaxconn`).
const BACKLOG: i32 = 65_535;

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Vec<TcpListener>,
    /// The other end of the process that hands over, where one does.
    pub predecessor: Option<UnixStream>,
}

impl Inherited {
    /// Takes what was passed on in the way of systemd (`LISTEN_FDS`). To be called before there is a second thread,
    /// because it clears the variables that say so.
    pub fn take() -> Self {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..passed.len() {
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                inherited.listeners.push(listener);
            } else if let Ok(Some(socket)) = passed.take_unix_listener(index) {
                let socket = UnixStream::from(OwnedFd::from(socket));
                // One that listens has nobody at its other end.
                inherited.predecessor = socket.peer_addr().is_ok().then_some(socket);
            }
        }
        inherited
    }

    /// The listening socket of `address`.
    pub fn listen(&mut self, key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
        let is_it = |listener: &TcpListener| listener.local_addr().is_ok_and(|own| own == address);
        let listener = match self.listeners.iter().position(is_it) {
            Some(index) => self.listeners.swap_remove(index),
            None => bind(address).with_context(|| {
                format!(
                    "cannot listen on `{address}`; stop what listens there or change `{key}` in gateway.toml"
                )
            })?,
        };
        prepare(&listener).with_context(|| format!("cannot prepare the socket of `{address}`"))?;
        Ok(listener)
    }

    /// Closes what nobody asked for.
    pub fn close_rest(self) {
        for listener in self.listeners {
            let address =
                listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
            warn!(
                "a socket that listens on `{address}` was passed on, and nothing in gateway.toml names it; closed"
            );
        }
    }
}

/// Refuses addresses that this machine does not have or may not use. One at which somebody listens is none of them: that
/// may be the gateway itself.
pub fn refuse_unusable(config: &Config) -> anyhow::Result<()> {
    let (settings, places) = (&config.gateway, &config.places);
    for (key, address, place) in
        [("listen.http", settings.http, &places.http), ("listen.ops", settings.ops, &places.ops)]
    {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => bail!(
                "{place}: `{key}` is `{address}`, where this process cannot listen: {error}\n  \
                 hint: name an address of this machine, and a port that the gateway's user may have"
            ),
            Ok(_) => {}
        }
    }
    Ok(())
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process before may still be closing.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What is set here every accepted connection has too (Linux), without a call for each.
fn prepare(listener: &TcpListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    // A client that has died without a word would hold its stream for ever.
    let probes = TcpKeepalive::new()
        .with_time(PROBES.idle)
        .with_interval(PROBES.interval)
        .with_retries(u32::try_from(PROBES.count)?);
    socket.set_tcp_keepalive(&probes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_the_key_that_names_it() {
        let taken = TcpListener::bind(local()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = Inherited::default().listen("listen.http", address).unwrap_err();
        let sentence = format!("{error:#}");
        assert!(sentence.starts_with(&format!("cannot listen on `{address}`; stop what")), "{sentence}");
        assert!(sentence.contains("`listen.http`"), "{sentence}");
    }

    #[test]
    fn a_socket_that_was_passed_on_is_used_where_its_address_is_asked_for() {
        let passed = TcpListener::bind(local()).unwrap();
        let address = passed.local_addr().unwrap();
        let mut inherited = Inherited { listeners: vec![passed], predecessor: None };
        let other = inherited.listen("listen.ops", local()).unwrap();
        assert_ne!(other.local_addr().unwrap(), address);
        let listener = inherited.listen("listen.http", address).unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        assert!(inherited.listeners.is_empty());
    }

    #[test]
    fn an_accepted_connection_has_what_its_listener_was_given() {
        let listener = Inherited::default().listen("listen.http", local()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBES.idle);
    }
}
