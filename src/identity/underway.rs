//! Callers with calls underway: who they are by now, and that nobody forgets to look.
//!
//! The identity that is asked need not be the one that believed them: the configuration may be another since. Decides
//! from memory alone whether what was begun with a credential may go on. Never whether a new call may begin.

use std::sync::Arc;

use super::{
    Identity, api_key,
    caller::{Caller, Scheme},
    session, signed_out, users,
};

/// A caller with a call underway: while it is held, nothing of what makes them one is forgotten.
pub struct Pin {
    _user: Option<users::Pin>,
    _api_key: Option<api_key::Pin>,
    _session: Option<signed_out::Pin>,
}

impl Identity {
    /// Keeps a caller's account and credential under watch while they have a call underway.
    pub fn pin(&self, caller: &Caller) -> Option<Pin> {
        let proof = caller.proof();
        let user = self.users.as_ref().zip(caller.openwebui_id()).map(|(users, id)| users.pin(id));
        let api_key = self.api_keys.as_ref().zip(proof.api_key).map(|(keys, sha256)| keys.pin(&sha256));
        let session = self
            .signed_out
            .as_ref()
            .zip(proof.session.as_ref())
            .map(|(ended, session)| ended.pin(&session.id));
        let is_watched = user.is_some() || api_key.is_some() || session.is_some();
        is_watched.then_some(Pin { _user: user, _api_key: api_key, _session: session })
    }

    /// Who a caller identified earlier is now: with their present groups, or nobody any more.
    ///
    /// That the credential has expired meanwhile is not asked: a call that began in time may end (`Caller::has_expired`).
    pub fn current(&self, caller: &Arc<Caller>) -> Option<Arc<Caller>> {
        let caller = &self.configured(caller)?;
        let proof = caller.proof();
        if let (Some(signed_out), Some(session)) = (&self.signed_out, &proof.session)
            && signed_out.has_ended(&session.id)
        {
            return None;
        }
        if let (Some(entra), Some((member, told))) = (&self.entra, &proof.graph)
            && !entra.directory().groups.are_still(member, told)
        {
            return None;
        }
        let (Some(users), Some(id)) = (&self.users, caller.openwebui_id()) else {
            return Some(caller.clone());
        };
        let Some(seen) = users.peek(id) else {
            // Not looked at since they were pinned; what is found then is announced.
            return Some(caller.clone());
        };
        let user = session::active(seen.row.as_ref()).ok()?;
        if let (Some(keys), Some(sha256)) = (&self.api_keys, &proof.api_key) {
            let key = keys.peek(sha256).filter(|key| key.user == user.id)?;
            api_key::permitted(&key, user).ok()?;
        }
        if let Some(session) = &proof.session {
            session.claims.permitted_by(seen.row.as_ref()).ok()?;
        }
        let person = seen.person().ok()?;
        Some(Caller::new(person, caller.scheme(), proof.clone()))
    }

    /// Who a caller is as the credential is believed by this configuration; none where it is believed no more.
    fn configured(&self, caller: &Arc<Caller>) -> Option<Arc<Caller>> {
        let proof = caller.proof();
        // Whom Open WebUI's tables told of is somebody else without them, and the other way round.
        let is_known_alike = caller.openwebui_id().is_some() == self.users.is_some();
        let is_believed = match caller.scheme() {
            Scheme::GatewayHeaders => self.gateway_headers.as_ref()?.still_believes(proof.gateway?),
            Scheme::ServiceKey => {
                return self.service_keys.get(&proof.service_key?).map(|service| service.caller.clone());
            }
            Scheme::Vouched => {
                let may_vouch = self.service_keys.get(&proof.service_key?)?.may_vouch;
                may_vouch && is_known_alike && Some(self.vouching.as_ref()?.id()) == proof.signed_with
            }
            Scheme::ApiKey => is_known_alike && self.api_keys.is_some(),
            Scheme::Session => {
                let sessions = self.sessions.as_ref()?;
                is_known_alike
                    && Some(sessions.id()) == proof.signed_with
                    && sessions.takes_expiry(proof.expires)
            }
            Scheme::Entra => return self.entra.as_ref()?.now(caller),
        };
        is_believed.then(|| caller.clone())
    }
}
