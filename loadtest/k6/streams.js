// Do thousands of streams stand at once, each arriving whole, and are calls beside them as quick as ever?
//
// A virtual user holds one stream. They begin one after another, and the first ends long after the last has begun.

import exec from "k6/execution";
import { sleep } from "k6";
import { arriving, caller, echo, expected, seconds, stream, summary } from "./common.js";

const streams = Number(__ENV.STREAMS || 5000);
const [opened, intervalMillis] = [200, 2000];
// k6 itself is busy for some seconds when it begins with thousands of users.
const settling = 5;
const opening = streams / opened;
const events = Math.ceil(((opening + seconds) * 1000) / intervalMillis) + 1;
const lasts = (events - 1) * intervalMillis;
const faces = { "stream": [], "call beside them": [100, 250] };

export const options = {
  scenarios: {
    streams: { executor: "per-vu-iterations", exec: "hold", vus: streams, iterations: 1, maxDuration: `${settling + opening + lasts / 1000 + 30}s` },
    calls: arriving("call", 50, { startTime: `${settling}s`, duration: `${Math.ceil(opening + lasts / 1000)}s` }),
  },
  ...expected(faces, {
    "http_reqs{face:stream}": [`count==${streams}`],
    "http_req_waiting{face:stream}": ["p(95)<250", "p(99)<1000"],
    "http_req_duration{face:stream}": [`min>${lasts - 50}`, `p(99)<${lasts + 2000}`],
  }),
};

export const handleSummary = summary(`streams: ${events} events, ${intervalMillis} ms apart`, faces);

export function hold() {
  const number = exec.scenario.iterationInTest;
  sleep(settling + number / opened);
  stream("stream", events, intervalMillis, { server: "streaming", token: caller(number), timeout: "300s" });
}

export function call() {
  echo("call beside them");
}
