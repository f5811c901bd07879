// Does a sudden spike leave anything behind? A low rate, many times as much all at once, the low rate again; and one caller
// who asks for more than a caller may have.
//
// In the spike calls may be refused as overload, and the greedy caller as over the limit; nothing else may fail.

import { arriving, echo, expected, greedy, millis, seconds, summary, value } from "./common.js";

const [low, high, greedyRate, restSecs] = [100, 8000, 40, 3];
const part = Math.max(3, Math.floor(seconds / 4));
const faces = { "before": [100, 250], "spike": [], "greedy caller": [], "after": [100, 250] };
const timed = (run, rate, start, more) => arriving(run, rate, { startTime: `${start}s`, duration: `${part}s`, ...more });

export const options = {
  ...expected(faces, {
    "refusals{face:before}": ["count==0"],
    "refusals{face:greedy caller}": ["count>0"],
    "refusals{face:after}": ["count==0"],
    "dropped_iterations{scenario:before}": ["count==0"],
    "dropped_iterations{scenario:after}": ["count==0"],
  }, "count>=0"),
  scenarios: {
    before: timed("before", low, 0),
    spike: timed("spike", high, part, { preAllocatedVUs: 1000, gracefulStop: `${restSecs}s` }),
    greedy: timed("tooMany", greedyRate, part, { duration: `${Math.max(part, 5)}s` }),
    after: timed("after", low, 2 * part + restSecs),
  },
};

export function before() {
  echo("before");
}

export function spike() {
  echo("spike", { status: [200, 503] });
}

export function tooMany() {
  echo("greedy caller", { status: [200, 429, 503], token: greedy });
}

export function after() {
  echo("after");
}

export const handleSummary = summary("spike", faces, (data) => {
  const [was, is] = ["before", "after"].map((face) => value(data, `http_req_duration{face:${face}}`, "p(95)"));
  const said = `p95 was ${millis(was)} ms before and is ${millis(is)} ms after`;
  return { told: `\n${said}\n`, missed: is <= 2 * was + 10 ? [] : [`${said}: more than twice as much and 10 ms`] };
});
