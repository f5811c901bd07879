// Do callers get what is due to them at a rate that this machine can do? Granted and refused calls, and streams of events.

import { arriving, ask, echo, expected, stranger, stream, summary } from "./common.js";

const [events, intervalMillis] = [10, 50];
const faces = { "granted call": [100, 250], "refused call": [100, 250], "call of nobody": [100, 250], "stream": [] };

export const options = {
  scenarios: {
    granted: arriving("granted", 300),
    refused: arriving("refused", 40),
    // An address may send a thousand a minute.
    nobody: arriving("nobody", 10),
    streams: arriving("streams", 40),
  },
  ...expected(faces, {
    // The first event arrives long before the last.
    "http_req_waiting{face:stream}": [`p(95)<${(events * intervalMillis) / 2}`],
    "http_req_duration{face:stream}": [`min>${(events - 1) * intervalMillis - 5}`, `p(99)<${events * intervalMillis + 250}`],
  }),
};

export const handleSummary = summary("steady", faces);

export function granted() {
  echo("granted call");
}

export function refused() {
  const is = (answer) => answer.json("code") === "not_granted";
  ask("refused call", "POST", "/sample/echo", { token: stranger, body: { text: "no" }, status: 403, is });
}

export function nobody() {
  const is = (answer) => answer.json("code") === "no_credential" && Boolean(answer.headers["Www-Authenticate"]);
  ask("call of nobody", "POST", "/sample/echo", { body: { text: "no" }, status: 401, is });
}

export function streams() {
  stream("stream", events, intervalMillis);
}
