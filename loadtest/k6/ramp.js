// How many calls a second does this machine do? Rates rise past that, step by step; the last one is as low as the first.
//
// Up to `floor` all must be well. Beyond the knee calls may take long, be dropped by k6 because too many are on their way,
// or be refused as overload; whatever is answered must be right, and afterwards all must be as before.

import exec from "k6/execution";
import { arriving, caller, echo, expected, millis, seconds, summary, table, value } from "./common.js";

const rates = [250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 250];
const [floor, slowMillis, restSecs] = [500, 100, 2];
const step = Math.max(2, Math.floor(seconds / rates.length));
const steps = rates.map((rate, at) => ({ rate, name: `${at + 1}_at_${rate}` }));
// One condition up to the floor, and beyond it one that always holds: without any k6 does not count by step.
const ofSteps = (metric, well, beyond) => Object.fromEntries(steps.map(({ rate, name }) => [`${metric}{scenario:${name}}`, [rate <= floor ? well : beyond]]));

export const options = {
  ...expected({ call: [] }, {
    ...ofSteps("http_reqs", "count>0", "count>0"),
    ...ofSteps("refusals", "count==0", "count>=0"),
    ...ofSteps("dropped_iterations", "count==0", "count>=0"),
    ...ofSteps("http_req_duration", `p(99)<${slowMillis}`, "max>0"),
  }, "count>=0"),
  scenarios: Object.fromEntries(steps.map(({ rate, name }, at) => [name, arriving("call", rate, {
    startTime: `${at * (step + restSecs)}s`, duration: `${step}s`, gracefulStop: `${restSecs}s`, preAllocatedVUs: 400,
  })])),
};

export function call() {
  // Each step begins with other callers.
  const begun = parseInt(exec.scenario.name) * 500;
  echo("call", { status: [200, 503], token: caller(begun + exec.scenario.iterationInTest) });
}

export const handleSummary = summary("ramp", undefined, (data) => {
  let knee;
  const rows = steps.map(({ rate, name }) => {
    const count = (metric) => value(data, `${metric}{scenario:${name}}`, "count") ?? 0;
    const times = data.metrics[`http_req_duration{scenario:${name}}`]?.values ?? {};
    const [dropped, refused] = [count("dropped_iterations"), count("refusals")];
    const why = [times["p(99)"] >= slowMillis && `p99 over ${slowMillis} ms`, dropped && "calls dropped", refused && "refused"]
      .filter(Boolean).join(", ");
    knee ??= why ? `${rate} calls/s (${why})` : undefined;
    return [rate, Math.round(count("http_reqs") / step), ...["med", "p(95)", "p(99)", "max"].map((what) => millis(times[what])),
      dropped, refused];
  });
  const head = ["ramp: due/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "longest", "dropped", "503"];
  return { told: `${table(head, rows)}\nKnee: ${knee ?? `above ${Math.max(...rates)} calls/s`}\n` };
});
