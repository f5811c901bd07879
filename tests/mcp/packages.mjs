// Finds the packages that the scripts here import in the folder PORTCULLIS_TEST_MCP_NODE, not beside the scripts:
// `node --import ./packages.mjs clients/typescript_v2.mjs …`.

import { registerHooks } from 'node:module';
import { pathToFileURL } from 'node:url';

const folder = pathToFileURL(process.env.PORTCULLIS_TEST_MCP_NODE + '/').href;
const here = new URL('.', import.meta.url).href;

registerHooks({
  resolve(specifier, context, next) {
    const isPackage = /^[@a-z]/.test(specifier) && !specifier.startsWith('node:');
    const isOurs = context.parentURL?.startsWith(here);
    return next(specifier, isPackage && isOurs ? { ...context, parentURL: folder } : context);
  },
});
