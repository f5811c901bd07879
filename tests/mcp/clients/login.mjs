// What the TypeScript logins share: a provider that keeps everything in memory, and a browser whose user is signed in.

export const redirectUrl = 'http://localhost:3030/callback';

export class Provider {
  redirectUrl = redirectUrl;
  clientMetadata = {
    client_name: 'a stock client',
    redirect_uris: [redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  };
  kept = {};
  state() {
    return (this.kept.state ??= crypto.randomUUID());
  }
  clientInformation() {
    return this.kept.client;
  }
  saveClientInformation(client) {
    this.kept.client = client;
  }
  tokens() {
    return this.kept.tokens;
  }
  saveTokens(tokens) {
    this.kept.tokens = tokens;
  }
  codeVerifier() {
    return this.kept.verifier;
  }
  saveCodeVerifier(verifier) {
    this.kept.verifier = verifier;
  }
  // Follows redirects like a browser, up to the client's own address.
  async redirectToAuthorization(url) {
    let address = String(url);
    while (!address.startsWith(redirectUrl)) {
      const answer = await fetch(address, { redirect: 'manual' });
      if (answer.status !== 302) throw new Error(`${answer.status} ${await answer.text()}`);
      address = answer.headers.get('location');
    }
    this.back = new URL(address).searchParams;
    if (this.back.get('error')) throw new Error(String(this.back));
    if (this.back.get('state') !== this.kept.state) throw new Error('another state came back');
  }
}
