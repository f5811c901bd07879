//! `[auth.oauth]`: what MCP clients are told about signing in.
//!
//! Decides whether a client that is told so could sign in at all. Never decides whose tokens are believed: that is
//! `auth.entra`.

use super::{
    problems::Complaint,
    reader::{Read, Reader},
    urls::{self, PublicUrl},
};
use crate::endpoints::{
    authorization::{Facade, RedirectUri},
    protected_resource::OAuth,
};

/// What the table says; it lacks what clients call the gateway.
#[derive(Debug, Clone)]
pub(super) struct SignIn {
    authorization_servers: Vec<String>,
    scopes: Vec<String>,
    facade: Option<Client>,
}

/// The one client of the facade.
#[derive(Debug, Clone)]
struct Client {
    id: String,
    redirect_uris: Vec<RedirectUri>,
}

/// Reads the table. The facade needs Entra ID, because it stands in front of it.
pub(super) fn read(table: &mut Reader<'_>, has_entra: bool) -> Read<Option<SignIn>> {
    let authorization_servers = table.list("authorization_servers", urls::issuer);
    let scopes = table.list("scopes", scope);
    let facade = table.table("facade", |table| client(table, has_entra));
    let (authorization_servers, scopes, facade) = (authorization_servers?, scopes?, facade?);
    if facade.is_some() {
        refuse_contradictions(table, &authorization_servers, &scopes)?;
    }
    if facade.is_none() && authorization_servers.is_empty() {
        if !scopes.is_empty() {
            table.warning(
                "scopes",
                "`auth.oauth.scopes` is not used, because no authorization server is named",
                "name one in `auth.oauth.authorization_servers`",
            );
        }
        return Ok(None);
    }
    Ok(Some(SignIn { authorization_servers, scopes, facade }))
}

fn client(table: &mut Reader<'_>, has_entra: bool) -> Read<Option<Client>> {
    let id = table.parsed("client_id", "", client_id);
    let redirect_uris = table.list("redirect_uris", |text| RedirectUri::parse(text).map_err(Complaint::new));
    let (id, redirect_uris) = (id?, redirect_uris?);
    let Some(id) = id else {
        if !redirect_uris.is_empty() {
            table.warning(
                "redirect_uris",
                "`auth.oauth.facade.redirect_uris` is not used, because `auth.oauth.facade.client_id` is empty",
                "set `client_id` to the application id that MCP clients have in Entra ID",
            );
        }
        return Ok(None);
    };
    if !has_entra {
        return Err(table.problem(
            "client_id",
            "`auth.oauth.facade` signs users in at Entra ID, and `auth.entra.tenant_id` is empty",
            "set `auth.entra.tenant_id` and `auth.entra.audience`, or no token is believed that clients get",
        ));
    }
    if redirect_uris.is_empty() {
        return Err(table.problem(
            "redirect_uris",
            "`auth.oauth.facade` has no `redirect_uris`, so no client could be sent back with its code",
            "list them as they are registered in Entra ID, for example `http://localhost/callback`",
        ));
    }
    Ok(Some(Client { id, redirect_uris }))
}

fn refuse_contradictions(
    table: &Reader<'_>,
    authorization_servers: &[String],
    scopes: &[String],
) -> Read<()> {
    if !authorization_servers.is_empty() {
        return Err(table.problem(
            "authorization_servers",
            "`auth.oauth.authorization_servers` and `auth.oauth.facade` are both set, and clients are told one",
            "keep one: with the facade, the gateway is the authorization server that clients see",
        ));
    }
    if scopes.is_empty() {
        return Err(table.problem(
            "scopes",
            "`auth.oauth.facade` needs `auth.oauth.scopes`, or Entra ID issues tokens for itself",
            "name the scope that the gateway's application exposes: `api://APPLICATION-ID/SCOPE`",
        ));
    }
    Ok(())
}

impl SignIn {
    /// What clients are told of a gateway that they call so.
    pub(super) fn at(self, listen: &Reader<'_>, public_url: &Read<Option<PublicUrl>>) -> Read<OAuth> {
        let Self { authorization_servers, scopes, facade } = self;
        let url = public_url.as_ref().map_err(|reported| *reported)?;
        let Some(client) = facade else {
            if url.is_none() {
                warn_of_guessing(listen);
            }
            return Ok(OAuth { authorization_servers, scopes, facade: None });
        };
        let hint = "say what clients call the gateway: `public_url = \"https://mcp.example.com\"`";
        let Some(url) = url else {
            let sentence =
                "`auth.oauth.facade` is set without `listen.public_url`, by which clients know the issuer";
            return Err(listen.problem("public_url", sentence, hint));
        };
        if urls::issuer(&url.origin).is_err() {
            let sentence =
                "`listen.public_url` is not `https://`, so codes and tokens could be read on their way";
            return Err(listen.problem("public_url", sentence, hint));
        }
        let issuer = url.origin.clone();
        let Client { id: client_id, redirect_uris } = client;
        let facade = Facade { issuer: issuer.clone(), client_id, redirect_uris, scopes: scopes.clone() };
        Ok(OAuth { authorization_servers: vec![issuer], scopes, facade: Some(facade) })
    }
}

fn warn_of_guessing(table: &Reader<'_>) {
    table.warning(
        "public_url",
        "`auth.oauth` is set without `listen.public_url`, so clients are told `http://` and the `Host` they sent, and \
         those that came through TLS refuse it",
        "say what clients call the gateway: `public_url = \"https://mcp.example.com\"`",
    );
}

/// A scope (RFC 6749 section 3.3), which needs no escaping where it is quoted.
pub(super) fn scope(text: &str) -> Result<String, Complaint> {
    let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if !text.is_empty() && text.bytes().all(is_scope) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("must hold scopes, each one word without quotes or backslashes"))
}

/// An application id of Entra ID; none where the text is empty.
fn client_id(text: &str) -> Result<Option<String>, Complaint> {
    let is_id = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
    if text.is_empty() || is_id {
        return Ok(is_id.then(|| text.to_owned()));
    }
    Err(Complaint::new("must be an application id of Entra ID: `00000000-0000-0000-0000-000000000000`"))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check, read};

    #[test]
    fn authorization_servers_and_scopes_go_together() {
        let servers = "[auth.oauth]\nauthorization_servers = ['https://login.example.com/t/']\n";
        let public = "[listen]\npublic_url = 'https://mcp.example.com'\n";
        let oauth = |gateway: &str| read(gateway, "", &[]).unwrap().gateway.oauth;
        assert!(oauth("").is_none());
        let found = oauth(&format!("{public}{servers}scopes = ['mcp', 'api://x/y']")).unwrap();
        assert_eq!(found.authorization_servers, ["https://login.example.com/t/"]);
        assert_eq!(found.scopes, ["mcp", "api://x/y"]);
        check(
            &format!("{servers}scopes = ['a b', '', 'a\"', 'a\\']"),
            "",
            &[],
            "g:3: `auth.oauth.scopes` must hold scopes, each one word without quotes or backslashes\n"
                .repeat(4)
                .trim_end(),
        );
        check(
            "[auth.oauth]\nscopes = ['mcp']",
            "",
            &[],
            "g:2: `auth.oauth.scopes` is not used, because no authorization server is named\n  \
             hint: name one in `auth.oauth.authorization_servers`",
        );
        check(
            servers,
            "",
            &[],
            "g: `auth.oauth` is set without `listen.public_url`, so clients are told `http://` and the `Host` they sent, \
             and those that came through TLS refuse it\n  \
             hint: say what clients call the gateway: `public_url = \"https://mcp.example.com\"`",
        );
    }

    const ENTRA: &str =
        "[auth.entra]\ntenant_id = '8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11'\naudience = ['api://x']\n";
    const FACADE: &str = "[auth.oauth.facade]\nclient_id = '66666666-7777-4888-9999-aaaaaaaaaaaa'\n\
         redirect_uris = ['http://localhost/callback']\n[auth.oauth]\nscopes = ['api://x/mcp']\n";
    const PUBLIC: &str = "[listen]\npublic_url = 'https://MCP.example.com:443'\n";

    #[test]
    fn with_the_facade_the_gateway_itself_is_the_authorization_server() {
        let oauth = read(&format!("{ENTRA}{FACADE}{PUBLIC}"), "", &[]).unwrap().gateway.oauth.unwrap();
        assert_eq!(oauth.authorization_servers, ["https://mcp.example.com"]);
        let facade = oauth.facade.unwrap();
        assert_eq!((facade.issuer, facade.scopes), (oauth.authorization_servers[0].clone(), oauth.scopes));
        assert_eq!(facade.client_id, "66666666-7777-4888-9999-aaaaaaaaaaaa");
        assert!(facade.redirect_uris[0].admits("http://localhost:3030/callback"));
        let here = PUBLIC.replace("https://MCP.example.com:443", "http://127.0.0.1:8000");
        assert!(read(&format!("{ENTRA}{FACADE}{here}"), "", &[]).unwrap().gateway.oauth.is_some());
    }

    #[test]
    fn the_facade_is_refused_where_no_client_could_sign_in() {
        let public = "hint: say what clients call the gateway: `public_url = \"https://mcp.example.com\"`";
        check(
            &format!("{FACADE}{PUBLIC}"),
            "",
            &[],
            "g:2: `auth.oauth.facade` signs users in at Entra ID, and `auth.entra.tenant_id` is empty\n  \
             hint: set `auth.entra.tenant_id` and `auth.entra.audience`, or no token is believed that clients get",
        );
        check(
            &format!("{ENTRA}{FACADE}"),
            "",
            &[],
            &format!(
                "g: `auth.oauth.facade` is set without `listen.public_url`, by which clients know the issuer\n  {public}"
            ),
        );
        check(
            &format!("{ENTRA}{FACADE}{}", PUBLIC.replace("https", "http")),
            "",
            &[],
            &format!(
                "g:10: `listen.public_url` is not `https://`, so codes and tokens could be read on their way\n  {public}"
            ),
        );
        check(
            &format!("{ENTRA}{PUBLIC}{}", FACADE.replace("api://x/mcp", "a b").replace("666666-", "-")),
            "",
            &[],
            "g:7: `auth.oauth.facade.client_id` must be an application id of Entra ID: \
             `00000000-0000-0000-0000-000000000000`\n\
             g:10: `auth.oauth.scopes` must hold scopes, each one word without quotes or backslashes",
        );
        check(
            &format!("{ENTRA}{PUBLIC}{}", FACADE.replace("scopes = ['api://x/mcp']", "")),
            "",
            &[],
            "g:9: `auth.oauth.facade` needs `auth.oauth.scopes`, or Entra ID issues tokens for itself\n  \
             hint: name the scope that the gateway's application exposes: `api://APPLICATION-ID/SCOPE`",
        );
        check(
            &format!("{ENTRA}{PUBLIC}{FACADE}authorization_servers = ['https://login.example.com']"),
            "",
            &[],
            "g:11: `auth.oauth.authorization_servers` and `auth.oauth.facade` are both set, and clients are told one\n  \
             hint: keep one: with the facade, the gateway is the authorization server that clients see",
        );
    }

    #[test]
    fn redirect_uris_lead_to_clients() {
        let listed =
            |uris: &str| format!("{ENTRA}{PUBLIC}{}", FACADE.replace("['http://localhost/callback']", uris));
        check(
            &listed("[]"),
            "",
            &[],
            "g:8: `auth.oauth.facade` has no `redirect_uris`, so no client could be sent back with its code\n  \
             hint: list them as they are registered in Entra ID, for example `http://localhost/callback`",
        );
        check(
            &listed("['http://app.example.com/callback', 'https://*.example.com/', 'javascript:alert(1)']"),
            "",
            &[],
            "g:8: `auth.oauth.facade.redirect_uris` holds an `http://` URI of another machine, where anybody on the way \
             could read the code\n\
             g:8: `auth.oauth.facade.redirect_uris` must hold whole URIs without `#` and `*`, for example \
             `http://localhost/callback`\n\
             g:8: `auth.oauth.facade.redirect_uris` holds a URI with a scheme that leads to no client",
        );
        check(
            "[auth.oauth.facade]\nredirect_uris = ['http://localhost/callback']",
            "",
            &[],
            "g:2: `auth.oauth.facade.redirect_uris` is not used, because `auth.oauth.facade.client_id` is empty\n  \
             hint: set `client_id` to the application id that MCP clients have in Entra ID",
        );
    }
}
