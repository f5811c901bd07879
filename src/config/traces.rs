//! `[traces]`: which requests are traced, and where their spans go.
//!
//! Decides whether a collector can be asked at all, by OpenTelemetry's own forms for what its variables hold. Sends
//! nothing: that is `record`.

use http::{HeaderName, HeaderValue, Uri};

use super::{
    limits::rate,
    problems::Complaint,
    reader::{Read, Reader},
    urls,
};
use crate::{
    names::Secret,
    record::trace::Settings,
    trace::{self, Follow},
};

/// Where spans go below a collector's address (OpenTelemetry, OTLP exporter, Endpoint URLs for OTLP/HTTP).
const PATH: &str = "/v1/traces";

/// Reads the table; none where nothing is traced.
pub(super) fn read(table: &mut Reader<'_>) -> Read<Option<Settings>> {
    let endpoint = table.parsed("endpoint", "${OTEL_EXPORTER_OTLP_ENDPOINT:-}", endpoint);
    let headers = table.parsed("headers", "${OTEL_EXPORTER_OTLP_HEADERS:-}", headers);
    let ratio = table.fraction("sample", "${OTEL_TRACES_SAMPLER_ARG:-1}");
    let follow = table.parsed("follow", "parent", follow);
    let followed = table.parsed("follow_rate", "100/s", rate);
    let service_name = table.parsed("service_name", "${OTEL_SERVICE_NAME:-portcullis}", service_name);
    let resource = table.parsed("resource", "${OTEL_RESOURCE_ATTRIBUTES:-}", resource);
    let timeout = table.seconds("timeout_secs", 10, 1..=300);
    let (endpoint, headers) = (endpoint?, headers?);
    let sampling = trace::Settings { ratio: ratio?, follow: follow?, followed: followed? };
    let (service_name, resource, timeout) = (service_name?, resource?, timeout?);
    let Some((endpoint, is_exposed)) = endpoint else { return Ok(None) };
    if is_exposed {
        table.warning(
            "endpoint",
            "`traces.endpoint` is a public address without TLS, so others can read the spans and what `traces.headers` holds",
            "use `https://`, or an address in a private network",
        );
    }
    if endpoint.contains(":4317/") {
        table.warning(
            "endpoint",
            "`traces.endpoint` has the port of OTLP over gRPC, which the gateway does not speak",
            "use OTLP over HTTP, usually at port 4318",
        );
    }
    Ok(Some(Settings { endpoint, headers, sampling, service_name, resource, timeout }))
}

/// The URL that spans are sent to, and whether others can listen.
fn endpoint(text: &str) -> Result<Option<(String, bool)>, Complaint> {
    if text.is_empty() {
        return Ok(None);
    }
    let shape = || {
        Complaint::new("must be like `http://otel-collector:4318`, without user, query or fragment")
            .with_hint("OTLP over HTTP is spoken, usually at port 4318; gRPC (4317) is not")
    };
    let uri: Uri = text.parse().map_err(|_| shape())?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https")).ok_or_else(shape)?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(shape)?;
    if text.contains(['@', '?', '#']) || uri.port().is_some_and(|port| port.as_str() == "0") {
        return Err(shape());
    }
    let is_exposed = scheme == "http" && !urls::is_private(host.trim_matches(['[', ']']));
    let base = text.trim_end_matches('/');
    let url = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
    Ok(Some((url, is_exposed)))
}

/// `key=value,key=value`, values percent-encoded (OpenTelemetry, OTLP exporter and Resource SDK).
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |member: &str| {
        let (key, value) = member.split_once('=')?;
        Some((decoded(key.trim())?, decoded(value.trim())?)).filter(|(key, _)| !key.is_empty())
    };
    text.split(',').filter(|member| !member.trim().is_empty()).map(pair).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let octet = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match octet.filter(|_| *first == b'%') {
            Some(octet) => {
                bytes.push(octet);
                rest = &rest[2..];
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

fn headers(text: &str) -> Result<Vec<(HeaderName, Secret<HeaderValue>)>, Complaint> {
    let bad = || {
        Complaint::new("must be headers like `authorization=Bearer%20TOKEN,x-tenant=blue`")
            .with_hint("percent-encode blanks, commas and `=` in a value")
    };
    let header = |(name, value): (String, String)| {
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((name.parse().ok()?, Secret::new(value)))
    };
    pairs(text).ok_or_else(bad)?.into_iter().map(header).collect::<Option<_>>().ok_or_else(bad)
}

fn resource(text: &str) -> Result<Vec<(String, String)>, Complaint> {
    pairs(text).ok_or_else(|| {
        Complaint::new(
            "must be attributes like `deployment.environment.name=production,service.namespace=mcp`",
        )
        .with_hint("percent-encode commas and `=` in a value")
    })
}

fn service_name(text: &str) -> Result<String, Complaint> {
    let fits = (1..=255).contains(&text.len()) && !text.contains(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Complaint::new("must be 1 to 255 characters without control characters"))
    }
}

fn follow(text: &str) -> Result<Follow, Complaint> {
    match text {
        "parent" => Ok(Follow::Parent),
        "own" => Ok(Follow::Own),
        _ => Err(Complaint::new("must be `parent` or `own`")),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::tests::{check, read},
        record::trace::Settings,
        trace::Follow,
    };

    fn traces(gateway: &str, pairs: &[(&str, &str)]) -> Option<Settings> {
        read(gateway, "", pairs).unwrap().record.traces
    }

    #[test]
    fn nothing_is_traced_until_a_collector_is_named() {
        assert!(traces("", &[]).is_none());
        assert!(traces("[traces]\nsample = 0.5", &[("OTEL_SERVICE_NAME", "x")]).is_none());
    }

    #[test]
    fn the_variables_of_opentelemetry_are_honoured() {
        let settings = traces(
            "",
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20dXNlcjpwYXNz, x-a=b"),
                ("OTEL_SERVICE_NAME", "gate"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%2Cb,x=100%"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ],
        )
        .unwrap();
        assert_eq!(settings.endpoint, "http://collector:4318/v1/traces");
        let said: Vec<_> =
            settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose().as_bytes())).collect();
        assert_eq!(said, [("authorization", &b"Basic dXNlcjpwYXNz"[..]), ("x-a", b"b")]);
        assert!(!format!("{settings:?}").contains("dXNl"));
        assert_eq!(settings.service_name, "gate");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(settings.resource, [pair("deployment.environment.name", "a,b"), pair("x", "100%")]);
        assert_eq!((settings.sampling.ratio, settings.sampling.follow), (0.25, Follow::Parent));
        assert_eq!(settings.sampling.followed.unwrap().to_string(), "100/s");
    }

    #[test]
    fn spans_go_below_the_collector_s_address_unless_that_says_where() {
        let url =
            |endpoint: &str| traces(&format!("[traces]\nendpoint = '{endpoint}'"), &[]).unwrap().endpoint;
        assert_eq!(url("https://c.example.com/otel"), "https://c.example.com/otel/v1/traces");
        assert_eq!(url("http://127.0.0.1:4318/v1/traces"), "http://127.0.0.1:4318/v1/traces");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_line() {
        check(
            "[traces]\nendpoint = 'collector:4318'\nheaders = 'a b=c'\nsample = 2\nfollow = 'all'\nfollow_rate = '5'\n\
             service_name = ''\nresource = 'x'\ntimeout_secs = 0",
            "",
            &[],
            "g:2: `traces.endpoint` must be like `http://otel-collector:4318`, without user, query or fragment\n  \
             hint: OTLP over HTTP is spoken, usually at port 4318; gRPC (4317) is not\n\
             g:3: `traces.headers` must be headers like `authorization=Bearer%20TOKEN,x-tenant=blue`\n  \
             hint: percent-encode blanks, commas and `=` in a value\n\
             g:4: `traces.sample` must be a number from 0 to 1\n  hint: `0.1` is one in ten\n\
             g:5: `traces.follow` must be `parent` or `own`\n\
             g:6: `traces.follow_rate` must be a rate: a rate is `COUNT/s`, `COUNT/min`, `COUNT/h` or `COUNT/day`, then perhaps \
             `, burst COUNT`\n  hint: for example `100/min`, `5/s, burst 20`, or `off`\n\
             g:7: `traces.service_name` must be 1 to 255 characters without control characters\n\
             g:8: `traces.resource` must be attributes like `deployment.environment.name=production,service.namespace=mcp`\n  \
             hint: percent-encode commas and `=` in a value\n\
             g:9: `traces.timeout_secs` must be a whole number from 1 to 300\n  hint: the default is 10",
        );
        for endpoint in ["http://u:p@c:4318", "http://c:4318?x=1", "grpc://c:4317", "http://"] {
            assert!(read(&format!("[traces]\nendpoint = '{endpoint}'"), "", &[]).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn the_port_of_grpc_is_warned_about() {
        check(
            "[traces]\nendpoint = 'http://collector:4317'",
            "",
            &[],
            "g:2: `traces.endpoint` has the port of OTLP over gRPC, which the gateway does not speak\n  \
             hint: use OTLP over HTTP, usually at port 4318",
        );
    }

    #[test]
    fn a_public_collector_without_tls_is_warned_about() {
        check(
            "[traces]\nendpoint = 'http://collector.example.com:4318'",
            "",
            &[],
            "g:2: `traces.endpoint` is a public address without TLS, so others can read the spans and what `traces.headers` \
             holds\n  hint: use `https://`, or an address in a private network",
        );
    }
}
