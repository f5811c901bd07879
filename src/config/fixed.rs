//! What a running gateway cannot change: its addresses, its threads, and what lasts as long as the process.
//!
//! Decides which keys wait for the next upgrade or restart. Everything that is not named here changes in place.

use super::Config;

macro_rules! fixed {
    ($($key:literal => $($field:ident).+;)*) => {
        /// The keys that wait for the next upgrade or restart.
        pub const FIXED: &[&str] = &[$($key),*];

        impl Config {
            /// Keeps what a running gateway cannot change as it is in `running`; gives the keys that say something else.
            pub fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
                let mut waiting = Vec::new();
                $(if self.$($field).+ != running.$($field).+ {
                    self.$($field).+ = running.$($field).+.clone();
                    waiting.push($key);
                })*
                waiting
            }
        }
    };
}

fixed! {
    "listen.http" => gateway.http;
    "listen.ops" => gateway.ops;
    // What its files hold is read again when it changes (`app/certificate.rs`); which files they are is not.
    "listen.certificate" => gateway.tls;
    // The framework starts them once.
    "listen.threads" => gateway.threads;
    // The framework is told once.
    "shutdown.grace_secs" => gateway.shutdown_grace;
    // What is remembered of ended sessions is remembered for as long as they could have lasted.
    "mcp.session_ttl_secs" => gateway.mcp.session_ttl;
    // The connection is kept by a thread that is started once.
    "limits.redis_url" => limits.redis;
    // What is in it would be forgotten there.
    "audit.spool_dir" => audit.spool_dir;
}
