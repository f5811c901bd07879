// Do callers get what they are due while many call at once? Granted calls, refused calls and event streams, with limits.
//
//   loadtest/calls                     starts what is needed and runs this with the real k6
//   GATEWAY=http://127.0.0.1:8000 GRANTED=TOKEN STRANGER=TOKEN k6 run loadtest/calls.js
//
// GRANTED is a session token of somebody who may use the server `sample`, STRANGER one of somebody who may not.

import http from "k6/http";
import { check } from "k6";

const gateway = __ENV.GATEWAY || "http://127.0.0.1:8000";
const seconds = Number(__ENV.SECONDS || 20);
// A refusal is what is wanted here; anything else than these is a failure.
http.setResponseCallback(http.expectedStatuses(200, 401, 403));
const events = 10;
const intervalMillis = 50;

function scenario(exec, vus) {
  return { executor: "constant-vus", exec, vus, duration: `${seconds}s`, gracefulStop: "5s" };
}

export const options = {
  scenarios: {
    granted: scenario("granted", 8),
    refused: scenario("refused", 2),
    nobody: scenario("nobody", 1),
    stream: scenario("stream", 20),
  },
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    "http_req_duration{scenario:granted}": ["p(99)<250"],
    "http_req_duration{scenario:refused}": ["p(99)<250"],
    // The first event arrives long before the last: the stream takes events x interval.
    "http_req_waiting{scenario:stream}": [`p(95)<${(events * intervalMillis) / 2}`],
    "http_req_duration{scenario:stream}": [`med>${(events - 1) * intervalMillis}`],
  },
};

function post(tool, body, token) {
  const headers = { "Content-Type": "application/json" };
  if (token) {
    headers.Authorization = `Bearer ${token}`;
  }
  return http.post(`${gateway}/sample/${tool}`, JSON.stringify(body), { headers });
}

export function granted() {
  const text = `call ${__VU}-${__ITER}`;
  const answer = post("echo", { text }, __ENV.GRANTED);
  check(answer, {
    "a granted call is answered by the tool": (a) => a.status === 200 && a.body.includes(text),
    "every answer carries a request id": (a) => Boolean(a.headers["X-Request-Id"]),
  });
}

export function refused() {
  const answer = post("echo", { text: "no" }, __ENV.STRANGER);
  check(answer, {
    "a call without a grant is refused": (a) => a.status === 403 && a.json("code") === "not_granted",
  });
}

export function nobody() {
  const answer = post("echo", { text: "no" });
  check(answer, {
    "a call without a credential is refused": (a) => a.status === 401 && Boolean(a.headers["Www-Authenticate"]),
  });
}

export function stream() {
  const answer = post("stream", { count: events, interval_millis: intervalMillis }, __ENV.GRANTED);
  check(answer, {
    "a stream arrives whole": (a) => a.status === 200 && a.body.split("data:").length - 1 >= events,
  });
}
