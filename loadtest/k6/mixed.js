// Is everybody served as is due when all faces are used at once? Real MCP servers behind real mcpo, an MCP server of its own,
// an HTTP tool server; each by REST and by MCP, alone and all in one; documents, refusals and streams beside them.
//
//   FOLDER, REPOSITORY   what the servers `filesystem` and `git` serve

import exec from "k6/execution";
import { arriving, ask, caller, echo, expected, stranger, stream, summary } from "./common.js";

// Over mcpo a call has the time of two Python processes.
const [quick, python] = [[100, 250], [500, 1500]];
const faces = {
  "REST": quick, "REST of mcpo": python, "REST to MCP": python, "MCP of one server": python, "MCP with a session": python,
  "MCP of all servers": python, "MCP to REST": quick, "MCP to mcpo": python, "list of all tools": quick, "document": quick,
  "unchanged document": quick, "refused call": quick, "call of nobody": quick, "stream": [],
};
const [events, intervalMillis] = [10, 50];

export const options = {
  scenarios: {
    rest: arriving("rest", 50), mcpo: arriving("mcpo", 15), restToMcp: arriving("restToMcp", 5), mcp: arriving("mcp", 5),
    session: arriving("session", 2), all: arriving("all", 5), mcpToRest: arriving("mcpToRest", 20),
    mcpToMcpo: arriving("mcpToMcpo", 5), list: arriving("list", 5), refused: arriving("refused", 10),
    // Few users, who ask again and again.
    document: arriving("document", 10, { preAllocatedVUs: 10 }), nobody: arriving("nobody", 5), streams: arriving("streams", 10),
  },
  ...expected(faces, {
    "http_req_waiting{face:stream}": [`p(95)<${(events * intervalMillis) / 2}`],
    "http_req_duration{face:stream}": [`min>${(events - 1) * intervalMillis - 5}`],
  }),
};

export const handleSummary = summary("mixed", faces);

export function rest() {
  echo("REST");
}

const noon = { source_timezone: "UTC", time: "12:00", target_timezone: "Asia/Tokyo" };
const file = { path: `${__ENV.FOLDER}/hello.txt` };
const behindMcpo = [
  ["/time/convert_time", noon, (answer) => answer.json("time_difference") === "+9.0h"],
  ["/git/git_log", { repo_path: __ENV.REPOSITORY }, (answer) => answer.body.includes("first commit")],
  ["/filesystem/read_text_file", file, (answer) => answer.body.includes("A file behind the gateway.")],
];

export function mcpo() {
  const [path, body, is] = behindMcpo[exec.scenario.iterationInTest % behindMcpo.length];
  ask("REST of mcpo", "POST", path, { token: caller(), body, is });
}

export function restToMcp() {
  const is = (answer) => answer.body.includes("over REST");
  ask("REST to MCP", "POST", "/native/echo", { token: caller(), body: { message: "over REST" }, is });
}

const revision = "2026-07-28";
const accept = { Accept: "application/json, text/event-stream" };

// The result in an answer of MCP, which is JSON or a stream whose last event has it.
function result(answer) {
  const isStream = answer.headers["Content-Type"].startsWith("text/event-stream");
  const data = answer.body.split(/\r?\n/).filter((line) => line.startsWith("data: ")).pop();
  return JSON.parse(isStream ? data.slice("data: ".length) : answer.body).result;
}

function modern(face, path, method, params, is) {
  const _meta = {
    "io.modelcontextprotocol/protocolVersion": revision,
    "io.modelcontextprotocol/clientInfo": { name: "loadtest", version: "1" },
    "io.modelcontextprotocol/clientCapabilities": {},
  };
  const name = params.name ? { "Mcp-Name": params.name } : {};
  return ask(face, "POST", path, {
    token: caller(), body: { jsonrpc: "2.0", id: 1, method, params: { ...params, _meta } },
    headers: { ...accept, "MCP-Protocol-Version": revision, "Mcp-Method": method, ...name },
    is: (answer) => is(result(answer)),
  });
}

function tool(face, path, name, args, part) {
  modern(face, path, "tools/call", { name, arguments: args }, ({ isError, content }) => !isError && content[0].text.includes(part));
}

export function mcp() {
  tool("MCP of one server", "/native/mcp", "echo", { message: "by MCP" }, "by MCP");
}

export function all() {
  tool("MCP of all servers", "/mcp", "native_echo", { message: "by MCP" }, "by MCP");
}

export function mcpToRest() {
  tool("MCP to REST", "/sample/mcp", "echo", { text: "by MCP" }, "by MCP");
}

export function mcpToMcpo() {
  tool("MCP to mcpo", "/mcp", "time_convert_time", noon, "+9.0h");
}

export function list() {
  const due = ["sample_echo", "native_echo", "time_convert_time", "git_git_log", "filesystem_read_text_file"];
  modern("list of all tools", "/mcp", "tools/list", {}, ({ tools }) => due.every((name) => tools.some((it) => it.name === name)));
}

// A client of an older revision: hello, a call, and goodbye.
export function session() {
  const [face, path, token] = ["MCP with a session", "/native/mcp", caller()];
  const older = "2025-11-25";
  const message = { jsonrpc: "2.0", id: 1 };
  const params = { protocolVersion: older, capabilities: {}, clientInfo: { name: "loadtest", version: "1" } };
  const hello = ask(face, "POST", path, {
    token, headers: accept, body: { ...message, method: "initialize", params },
    is: (answer) => result(answer).protocolVersion === older && Boolean(answer.headers["Mcp-Session-Id"]),
  });
  const headers = { ...accept, "MCP-Protocol-Version": older, "Mcp-Session-Id": hello.headers["Mcp-Session-Id"] || "none" };
  ask(face, "POST", path, { token, headers, body: { jsonrpc: "2.0", method: "notifications/initialized" }, status: 202 });
  ask(face, "POST", path, {
    token, headers, body: { ...message, method: "tools/call", params: { name: "echo", arguments: { message: "in a session" } } },
    is: (answer) => result(answer).content[0].text === "in a session",
  });
  ask(face, "DELETE", path, { token, headers, status: [200, 202, 204] });
}

// Of this virtual user, who is one caller here.
let tag;

export function document() {
  const token = caller(exec.vu.idInTest);
  if (!tag) {
    const is = (answer) => Boolean(answer.json("paths")["/time/convert_time"]) && Boolean(answer.headers.Etag);
    tag = ask("document", "GET", "/openapi.json", { token, is }).headers.Etag;
    return;
  }
  ask("unchanged document", "GET", "/openapi.json", { token, headers: { "If-None-Match": tag }, status: 304 });
}

export function refused() {
  const is = (answer) => answer.json("code") === "not_granted";
  ask("refused call", "POST", "/time/convert_time", { token: stranger, body: noon, status: 403, is });
}

export function nobody() {
  const is = (answer) => answer.json("code") === "no_credential" && Boolean(answer.headers["Www-Authenticate"]);
  ask("call of nobody", "POST", "/sample/echo", { body: { text: "no" }, status: 401, is });
}

export function streams() {
  stream("stream", events, intervalMillis);
}
