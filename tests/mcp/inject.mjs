// Adds a header to every request that a Node.js program makes to this machine, for programs without an option for it:
//
//   INJECT_HEADER='Authorization: Bearer TOKEN' NODE_OPTIONS="--import $PWD/inject.mjs" node …
//
// The conformance suite writes through fetch, and through node:http where it minds the case of a header: both say on
// node:diagnostics_channel that a request is about to be sent.

import channels from 'node:diagnostics_channel';

const [, name, value] = /^([^:]+):\s*(.*)$/.exec(process.env.INJECT_HEADER);
const isHere = (host) => ['localhost', '127.0.0.1', '[::1]'].includes(host.replace(/:\d+$/, ''));

channels.subscribe('undici:request:create', ({ request }) => {
  if (isHere(new URL(String(request.origin)).host)) request.addHeader(name, value);
});
channels.subscribe('http.client.request.created', ({ request }) => {
  const host = String(request.getHeader('host') ?? request.host ?? '');
  if (isHere(host) && !request.headersSent && !request.hasHeader(name)) request.setHeader(name, value);
});
