//! What was wrong with TLS at a server, in the operator's words: the framework has it only in a text, which quotes what it
//! connected to.

use pingora::Error;

/// What rustls says, the more exact before the less, and what that means.
const WORDS: [(&str, &str); 13] = [
    ("certificate: UnknownIssuer", "its certificate is of no authority that is believed (`ca`)"),
    ("certificate not valid for name", "its certificate is for another name (`tls_name`)"),
    ("certificate: NotValidForName", "its certificate is for another name (`tls_name`)"),
    ("certificate expired", "its certificate has expired"),
    ("certificate: Expired", "its certificate has expired"),
    ("certificate not valid yet", "its certificate is not valid yet"),
    ("invalid peer certificate", "its certificate is not acceptable"),
    ("fatal alert: CertificateRequired", "it wants a certificate of ours (`client_cert`)"),
    ("fatal alert: UnknownCA", "it does not believe our certificate (`client_cert`)"),
    ("fatal alert: BadCertificate", "it does not believe our certificate (`client_cert`)"),
    ("fatal alert: CertificateUnknown", "it does not believe our certificate (`client_cert`)"),
    ("received fatal alert", "it ended TLS with an alert"),
    ("received corrupt message", "it does not speak TLS"),
];

/// Why TLS failed, where it is TLS that did. Never what the server sent.
pub fn trouble(error: &Error) -> Option<&'static str> {
    let text = error.to_string();
    WORDS.iter().find(|(said, _)| text.contains(said)).map(|(_, word)| *word)
}
