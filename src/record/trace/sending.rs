//! One batch on its way to the collector: what is sent, what its answer means, and how often it is tried.
//!
//! Decides by OTLP's own rules (OTLP 1.x, Failures): 429, 502, 503 and 504 may be sent again, when the answer says so or
//! after a while that grows; no other answer is. Never waits for longer than the bounds here.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;

use super::{Settings, spans::value};
use crate::dial::Dialer;

/// Times that one batch is sent.
const MOST_TRIES: u32 = 5;
/// The wait before the second time; every further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait, whatever a collector asks for: what waits behind is dropped meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Most of an answer that is read.
const MOST_ANSWER: usize = 64 * 1024;
/// The longest wait for a collector once the process ends.
pub const LAST_WAIT: Duration = Duration::from_millis(1_500);

/// A collector.
pub struct Target {
    settings: Settings,
    dialer: Dialer,
    resource: Resource,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// Spans that were taken.
    pub taken: u64,
    /// Spans that were not.
    pub failed: u64,
}

/// Why a batch was not taken.
#[derive(Debug)]
enum Failure {
    /// It may be taken later, perhaps at a time that is said.
    Later(anyhow::Error, Option<Duration>),
    /// It never will be.
    Never(anyhow::Error),
}

impl Target {
    /// The collector that these settings name. `instance` tells this process from others.
    pub fn new(settings: Settings, instance: &str) -> anyhow::Result<Self> {
        let dialer = Dialer::new(settings.timeout, MOST_ANSWER)?;
        let own = [
            ("service.name", settings.service_name.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", instance),
        ];
        let said = settings.resource.iter().map(|(key, said)| (key.as_str(), said.as_str()));
        // What the operator says wins, but for the name, which has a key of its own.
        let own = own.into_iter().filter(|(key, _)| {
            *key == "service.name" || !settings.resource.iter().any(|(said, _)| said == key)
        });
        let all = own.chain(said.filter(|(key, _)| *key != "service.name"));
        let attributes = all
            .map(|(key, said)| KeyValue { key: key.to_owned(), ..value(Value::StringValue(said.to_owned())) })
            .collect();
        Ok(Self { dialer, resource: Resource { attributes, ..Resource::default() }, settings })
    }

    /// Sends spans until they are taken or it is certain that they will not be. Once `over` has come there is one more
    /// try at most, and a short one.
    pub async fn send(
        &self,
        spans: Vec<Span>,
        over: impl Future<Output = ()>,
    ) -> (Sent, Option<anyhow::Error>) {
        let count = spans.len() as u64;
        let lost = |error| (Sent { taken: 0, failed: count }, Some(error));
        let body = self.message(spans);
        let mut over = std::pin::pin!(over);
        let mut is_over = false;
        let mut wait = FIRST_WAIT;
        for number in 1.. {
            let sent = if is_over {
                let sent = tokio::time::timeout(LAST_WAIT, self.post(body.clone())).await;
                sent.unwrap_or_else(|_| Err(Failure::Never(anyhow::anyhow!("no answer before the end"))))
            } else {
                tokio::select! {
                    sent = self.post(body.clone()) => sent,
                    () = in_a_while(&mut over, &mut is_over) => {
                        Err(Failure::Never(anyhow::anyhow!("no answer before the end")))
                    }
                }
            };
            match sent {
                Ok(rejected) => {
                    let failed = rejected.min(count);
                    let told =
                        (failed > 0).then(|| anyhow::anyhow!("{failed} of {count} spans were rejected"));
                    return (Sent { taken: count - failed, failed }, told);
                }
                Err(Failure::Never(error)) => return lost(error),
                Err(Failure::Later(error, _)) if number >= MOST_TRIES || is_over => return lost(error),
                Err(Failure::Later(_, said)) => {
                    let pause = said.unwrap_or_else(|| jittered(wait)).min(LONGEST_WAIT);
                    wait = (wait * 2).min(LONGEST_WAIT);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = &mut over => is_over = true,
                    }
                }
            }
        }
        lost(anyhow::anyhow!("it was tried too often"))
    }

    fn message(&self, spans: Vec<Span>) -> Bytes {
        let scope = InstrumentationScope {
            name: "portcullis".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
    }

    /// Sends the message once; gives how many spans were rejected.
    async fn post(&self, body: Bytes) -> Result<u64, Failure> {
        let mut request = http::Request::post(&self.settings.endpoint)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(body)
            .context("the endpoint cannot be asked")
            .map_err(Failure::Never)?;
        for (name, said) in &self.settings.headers {
            request.headers_mut().insert(name, said.expose().clone());
        }
        let answer = self.dialer.settled(request).await.map_err(|error| Failure::Later(error, None))?;
        let status = answer.status();
        if status.is_success() {
            // An answer without a body, or one that cannot be read, has nothing to say against it.
            let said = ExportTraceServiceResponse::decode(answer.into_body()).unwrap_or_default();
            let rejected = said.partial_success.map_or(0, |partial| partial.rejected_spans);
            return Ok(u64::try_from(rejected).unwrap_or(0));
        }
        let error = anyhow::anyhow!("it answered {status}");
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Later(error, retry_after(answer.headers()))),
            _ => Err(Failure::Never(error)),
        }
    }
}

/// Returns when the process ends and a call that was under way has had its last wait.
async fn in_a_while(over: &mut (impl Future<Output = ()> + Unpin), is_over: &mut bool) {
    over.await;
    *is_over = true;
    tokio::time::sleep(LAST_WAIT).await;
}

/// How long a collector wants to be left alone (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let at = || httpdate::parse_http_date(said).ok()?.duration_since(SystemTime::now()).ok();
    said.parse().map(Duration::from_secs).ok().or_else(at)
}

/// About so long: replicas that lost one collector together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers it is exactly so long.
    let _ = aws_lc_rs::rand::fill(&mut random);
    wait.mul_f64(1.0 + f64::from(random[0]) / 512.0)
}
