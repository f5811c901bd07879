// Lets a Node.js program that knows resources by heart find them where several servers are one: what it sends as
// `test://…` goes out with URI_PREFIX before it, and what comes back loses that again.
//
//   URI_PREFIX=mcp:test: NODE_OPTIONS="--import $PWD/addresses.mjs" node …
//
// A client of such an address has its URIs from the lists there. The conformance suite has no use for lists.

const prefix = process.env.URI_PREFIX;
const [inner, outer] = ['test://', `${prefix}test://`];
const fetch = globalThis.fetch;

globalThis.fetch = async (input, init = {}) => {
  const headers = new Headers(init.headers);
  const name = headers.get('mcp-name');
  if (name?.startsWith(inner)) headers.set('mcp-name', prefix + name);
  const body = typeof init.body === 'string' ? init.body.replaceAll(`"uri":"${inner}`, `"uri":"${outer}`) : init.body;
  const answer = await fetch(input, { ...init, headers, ...(body === undefined ? {} : { body }) });
  if (!answer.body) return answer;
  const { status, statusText } = answer;
  const said = new Headers(answer.headers);
  said.delete('content-length');
  const text = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(restored());
  return new Response(text.pipeThrough(new TextEncoderStream()), { status, statusText, headers: said });
};

// Takes `outer` for `inner`, even where it comes in two pieces.
function restored() {
  let held = '';
  return new TransformStream({
    transform(piece, output) {
      const text = (held + piece).replaceAll(outer, inner);
      let keep = Math.min(outer.length - 1, text.length);
      while (keep > 0 && !outer.startsWith(text.slice(-keep))) keep--;
      held = keep ? text.slice(-keep) : '';
      if (keep < text.length) output.enqueue(text.slice(0, text.length - keep));
    },
    flush(output) {
      if (held) output.enqueue(held);
    },
  });
}
