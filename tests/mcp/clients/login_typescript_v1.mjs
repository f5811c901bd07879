// The TypeScript SDK v1 signs its user in and calls a tool: `login_typescript_v1.mjs URL`; one line of JSON at the end.
// `--import ../packages.mjs` finds the SDK.

import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { Provider } from './login.mjs';

const url = new URL(process.argv[2]);
const authProvider = new Provider();

async function echo(message) {
  const client = new Client({ name: 'typescript-v1', version: '1' });
  const transport = new StreamableHTTPClientTransport(url, { authProvider });
  try {
    await client.connect(transport);
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
    await transport.finishAuth(authProvider.back.get('code'));
    return echo(message);
  }
  const said = (await client.callTool({ name: 'echo', arguments: { message } })).content[0].text;
  await client.close();
  return said;
}

const said = { echo: await echo('hi') };
// A token that is believed no more makes it use its refresh token, or send its user again.
authProvider.kept.tokens.access_token += 'x';
authProvider.back = undefined;
said.renewed = await echo('again');
said.asked_again = authProvider.back !== undefined;
said.scope = authProvider.kept.tokens.scope;
console.log(JSON.stringify(said));
