// The TypeScript SDK v2 as a client: `typescript_v2.mjs URL TOKEN [auto|legacy|2026-07-28] [STEPS]`; one line of JSON
// at the end. `--import ../packages.mjs` finds the SDK.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [url, token, mode = 'auto', list = 'list,echo,progress,ask,cancel'] = process.argv.slice(2);
const steps = list.split(',');
const said = {};
// What stands before the tools' names where several servers are one.
const prefix = process.env.TOOL_PREFIX ?? '';
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${token}` } },
});
const client = new Client(
  { name: 'typescript-v2', version: '1' },
  {
    capabilities: { elicitation: { form: {} } },
    versionNegotiation: { mode: /^\d/.test(mode) ? { pin: mode } : mode },
  },
);
client.setRequestHandler('elicitation/create', () => ({ action: 'accept', content: { name: 'Ada' } }));
await client.connect(transport);
said.version = client.getNegotiatedProtocolVersion();
if (steps.includes('list')) said.tools = (await client.listTools()).tools.length;
if (steps.includes('echo')) {
  said.echo = (await client.callTool({ name: prefix + 'echo', arguments: { message: 'hi' } })).content[0].text;
}
if (steps.includes('progress')) {
  said.progress = [];
  const onprogress = ({ progress }) => said.progress.push(progress);
  await client.callTool({ name: prefix + 'slow', arguments: { ms: 300, step: 100 } }, { onprogress });
}
if (steps.includes('ask')) said.ask = (await client.callTool({ name: prefix + 'ask', arguments: {} })).content[0].text;
if (steps.includes('cancel')) {
  const leaving = new AbortController();
  const options = { signal: leaving.signal, onprogress: () => leaving.abort() };
  said.cancelled = await client.callTool({ name: prefix + 'slow', arguments: { ms: 60000, step: 50 } }, options).then(
    () => false,
    () => true,
  );
  said.after = (await client.callTool({ name: prefix + 'echo', arguments: { message: 'again' } })).content[0].text;
}
await transport.terminateSession();
await client.close();
console.log(JSON.stringify(said));
