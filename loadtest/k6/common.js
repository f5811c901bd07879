// What the scenarios share: callers in turn, requests with their checks, thresholds, and the table at the end.
//
//   GATEWAY=http://127.0.0.1:8000 TOKENS=FILE k6 run loadtest/k6/steady.js
//
// `loadtest/calls steady` starts what is needed and runs this. TOKENS holds session tokens, one a line: first one of somebody
// who may use nothing, then those of callers who may use all servers, the first of whom asks for more than a caller may have.

import http from "k6/http";
import exec from "k6/execution";
import { check } from "k6";
import { Counter } from "k6/metrics";
import { SharedArray } from "k6/data";

const gateway = __ENV.GATEWAY || "http://127.0.0.1:8000";
const tokens = new SharedArray("tokens", () => open(__ENV.TOKENS).trim().split("\n"));
const refusals = new Counter("refusals");

export const seconds = Number(__ENV.SECONDS || 20);
export const [stranger, greedy] = [tokens[0], tokens[1]];

// Callers take turns, so that each stays within the 100 calls a minute that everybody has.
export function caller(number = exec.scenario.iterationInTest) {
  return tokens[2 + (number % (tokens.length - 2))];
}

// One request. `face` names what is tried, `status` what is due (a number, or several), `is` what else must hold.
export function ask(face, method, path, { token, body, headers, status = 200, tags, timeout = "30s", is }) {
  const due = [status].flat();
  const credential = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = http.request(method, gateway + path, body === undefined ? null : JSON.stringify(body), {
    headers: { "Content-Type": "application/json", ...credential, ...headers },
    tags: { face, ...tags },
    responseCallback: http.expectedStatuses(...due),
    timeout,
  });
  const isRefused = answer.status === 429 || answer.status === 503;
  if (isRefused) refusals.add(1, { face, ...tags });
  const holds = due.includes(answer.status) && Boolean(answer.headers["X-Request-Id"]) &&
    isTrue(() => (isRefused ? isDocumented(answer) : !is || is(answer)));
  check(holds, { "answered as is due": (it) => it }, { face });
  if (!holds) console.error(`${face}: ${answer.status} ${answer.error} ${String(answer.body).slice(0, 300)}`);
  return answer;
}

// An answer that cannot be read throws, which would end the iteration without a failed check.
function isTrue(judge) {
  try {
    return judge();
  } catch {
    return false;
  }
}

// What the README says of being over a limit.
function isDocumented(answer) {
  const codes = { 429: ["too_many_requests", "too_many_streams"], 503: ["overloaded", "server_busy"] };
  return codes[answer.status].includes(answer.json("code")) && Number(answer.headers["Retry-After"]) > 0;
}

export function echo(face, options = {}) {
  const text = `call ${exec.vu.idInTest}-${exec.vu.iterationInInstance}`;
  const is = (answer) => answer.json("text") === text;
  return ask(face, "POST", "/sample/echo", { token: caller(), body: { text }, is, ...options });
}

// A stream must have each of its events, and end.
export function stream(face, count, interval_millis, { server = "sample", ...options } = {}) {
  const is = (answer) => {
    const numbers = answer.body.split("\n\n").filter(Boolean).map((event) => JSON.parse(event.slice("data: ".length)).number);
    return numbers.length === count && numbers.every((number, at) => number === at + 1);
  };
  return ask(face, "POST", `/${server}/stream`, { token: caller(), body: { count, interval_millis }, is, ...options });
}

// Requests arrive at this rate, however long the answers take.
export function arriving(run, rate, more = {}) {
  return {
    executor: "constant-arrival-rate", exec: run, rate, timeUnit: "1s", duration: `${seconds}s`,
    preAllocatedVUs: Math.max(50, Math.ceil(rate / 4)), gracefulStop: "30s", ...more,
  };
}

// What must hold of faces (`face -> [p95, p99]` in milliseconds, or `[]`): they were asked, and answered as is due; and by
// `dropped`, of what k6 could not begin in time.
export function expected(faces, more = {}, dropped = "count==0") {
  const thresholds = { dropped_iterations: [dropped] };
  for (const [face, [p95, p99]] of Object.entries(faces)) {
    thresholds[`http_reqs{face:${face}}`] = ["count>0"];
    thresholds[`checks{face:${face}}`] = ["rate==1"];
    thresholds[`http_req_failed{face:${face}}`] = ["rate==0"];
    thresholds[`http_req_duration{face:${face}}`] = p95 ? [`p(95)<${p95}`, `p(99)<${p99}`] : ["max>0"];
    // Without a threshold k6 does not count by face.
    thresholds[`refusals{face:${face}}`] = ["count>=0"];
  }
  for (const [metric, conditions] of Object.entries(more)) {
    thresholds[metric] = [...(thresholds[metric] || []), ...conditions];
  }
  return { thresholds, summaryTrendStats: ["min", "med", "p(95)", "p(99)", "max"], userAgent: "portcullis-loadtest" };
}

export const value = (data, metric, what) => data.metrics[metric]?.values[what];
export const millis = (number) => (number === undefined ? "" : number.toFixed(number < 10 ? 2 : 0));

export function table(head, rows) {
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}

// The row of a face: how often, how quick, and what was not as is due.
function row(data, face) {
  const times = data.metrics[`http_req_duration{face:${face}}`]?.values ?? {};
  const checks = data.metrics[`checks{face:${face}}`]?.values ?? {};
  return [
    face, value(data, `http_reqs{face:${face}}`, "count") ?? 0, millis(times.med), millis(times["p(95)"]),
    millis(times["p(99)"]), millis(times.max), value(data, `refusals{face:${face}}`, "count") ?? 0, checks.fails ?? 0,
  ];
}

// The `handleSummary` of a scenario. `judge` says what else there is to tell, and what else was missed.
export function summary(name, faces, judge = () => ({})) {
  return (data) => {
    const { told = "", missed = [] } = judge(data);
    for (const [metric, { thresholds = {}, values }] of Object.entries(data.metrics)) {
      for (const [condition, { ok }] of Object.entries(thresholds)) {
        if (!ok) missed.push(`${metric}: ${condition}, and it was ${values[/^[a-z]+(\(\d+\))?/.exec(condition)[0]]}`);
      }
    }
    const head = [name, "requests", "p50 ms", "p95 ms", "p99 ms", "longest", "429, 503", "not as is due"];
    const text = `${faces ? table(head, Object.keys(faces).map((face) => row(data, face))) : ""}${told}`;
    const found = { requests: value(data, "http_reqs", "count") ?? 0, missed };
    return { stdout: text, ...(__ENV.FOUND && { [__ENV.FOUND]: JSON.stringify(found) }) };
  };
}
