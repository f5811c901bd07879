// The TypeScript SDK v1 as a client: `typescript_v1.mjs URL TOKEN [http|sse] [STEPS]`; one line of JSON at the end.
// `--import ../packages.mjs` finds the SDK.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const [url, token, kind = 'http', list = 'list,echo,progress,ask,cancel'] = process.argv.slice(2);
const steps = list.split(',');
const said = {};
// What stands before the tools' names where several servers are one.
const prefix = process.env.TOOL_PREFIX ?? '';
const Transport = kind === 'http' ? StreamableHTTPClientTransport : SSEClientTransport;
const transport = new Transport(new URL(url), { requestInit: { headers: { Authorization: `Bearer ${token}` } } });
const client = new Client({ name: 'typescript-v1', version: '1' }, { capabilities: { elicitation: {} } });
client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept', content: { name: 'Ada' } }));
await client.connect(transport);
said.version = transport.protocolVersion ?? 'unsaid';
if (steps.includes('list')) said.tools = (await client.listTools()).tools.length;
if (steps.includes('echo')) {
  said.echo = (await client.callTool({ name: prefix + 'echo', arguments: { message: 'hi' } })).content[0].text;
}
if (steps.includes('progress')) {
  said.progress = [];
  const onprogress = ({ progress }) => said.progress.push(progress);
  await client.callTool({ name: prefix + 'slow', arguments: { ms: 300, step: 100 } }, undefined, { onprogress });
}
if (steps.includes('ask')) said.ask = (await client.callTool({ name: prefix + 'ask', arguments: {} })).content[0].text;
if (steps.includes('cancel')) {
  const leaving = new AbortController();
  const options = { signal: leaving.signal, onprogress: () => leaving.abort() };
  said.cancelled = await client
    .callTool({ name: prefix + 'slow', arguments: { ms: 60000, step: 50 } }, undefined, options)
    .then(
      () => false,
      () => true,
    );
  said.after = (await client.callTool({ name: prefix + 'echo', arguments: { message: 'again' } })).content[0].text;
}
await transport.terminateSession?.();
await client.close();
console.log(JSON.stringify(said));
