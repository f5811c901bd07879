//! Open WebUI's session tokens: whom a verified token names, and whether that user may still use it.
//!
//! Pure: takes claims and the user's row as last seen, gives a caller or a refusal. The rules are
//! those of Open WebUI itself (`is_valid_token`), and stricter where it is lenient.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    caller::{Caller, Person, Proof, Scheme, SessionId},
    reason::Reason,
};
use crate::{
    names::Email,
    refusal::Refusal,
    store::openwebui::{Role, SecondFactor, User},
};

/// Claims of a session token that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// The user's id.
    pub id: String,
    /// What the token is for; older Open WebUI sends none.
    pub typ: Option<String>,
    /// Changes when the user's sessions are revoked.
    pub session_stamp: Option<String>,
    /// How the user signed in: `password`, `oauth`, `trusted_header`, …
    pub auth_method: Option<String>,
    /// Whether the user has shown a second factor.
    pub mfa_verified: Option<bool>,
    /// What a sign-out names the session by.
    pub jti: Option<String>,
    /// Believed only where Open WebUI's tables cannot be asked.
    pub email: Option<String>,
}

/// A session whose token has been verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Session {
    /// What the token says.
    pub claims: Claims,
    /// The session, as a sign-out names it.
    pub id: SessionId,
}

impl Session {
    /// The session of these claims, issued then.
    pub fn new(claims: Claims, issued: Option<i64>) -> Self {
        let id = SessionId::new(&claims.id, claims.jti.as_deref(), issued);
        Self { claims, id }
    }
}

impl Claims {
    /// Refuses tokens that are not for acting as the user.
    pub fn checked(self) -> Result<Self, Refusal> {
        let is_for_acting =
            self.typ.as_deref().is_none_or(|typ| matches!(typ, "session" | "automation" | "subagent"));
        if !is_for_acting {
            return Err(Reason::WrongPurpose.because("the `typ` claim is not for sessions"));
        }
        if self.id.is_empty() {
            return Err(Reason::Malformed.because("the `id` claim is empty"));
        }
        Ok(self)
    }

    /// The caller, where Open WebUI's tables cannot be asked: the token itself must name the email.
    pub fn caller_by_claim(&self, proof: Proof) -> Result<Arc<Caller>, Refusal> {
        let email = self.email.as_deref().ok_or_else(|| {
            Reason::NoEmail.because("no `email` claim, and `auth.openwebui.database_url` is not set")
        })?;
        let email = Email::parse(email)
            .map_err(|_| Reason::NoEmail.because("the `email` claim is not an email address"))?;
        Ok(Caller::new(Person::user(email, Vec::new()), Scheme::Session, proof))
    }

    /// Whether this token is still good for the user in the row.
    pub fn permitted_by(&self, user: Option<&User>) -> Result<(), Refusal> {
        let user = active(user)?;
        // Both absent is right for tokens and rows older than the stamp.
        if self.session_stamp != user.session_stamp {
            return Err(Reason::StampDiffers.refuse());
        }
        if self.lacks_second_factor(&user.second_factor) {
            return Err(Reason::NoSecondFactor.refuse());
        }
        Ok(())
    }

    fn lacks_second_factor(&self, factor: &SecondFactor) -> bool {
        let is_exempt = match self.auth_method.as_deref() {
            Some("oauth") => factor.is_oauth_exempt,
            Some("trusted_header") => factor.is_trusted_header_exempt,
            _ => false,
        };
        // Automations and subagents were started by a session that had shown it.
        let is_session = self.typ.as_deref().is_none_or(|typ| typ == "session");
        let has_shown = self.mfa_verified == Some(true) && factor.is_set_up;
        is_session && factor.is_demanded && !is_exempt && !has_shown
    }
}

/// The user, if they are there, active and not pending.
pub fn active(user: Option<&User>) -> Result<&User, Refusal> {
    let user = user.ok_or_else(|| Reason::NoSuchUser.refuse())?;
    if !user.is_active {
        return Err(Reason::UserInactive.refuse());
    }
    match user.role {
        Role::User | Role::Admin => Ok(user),
        Role::Other => Err(Reason::UserPending.refuse()),
    }
}
