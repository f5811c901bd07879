"""MSAL signs its user in: `login_msal.py AUTHORITY TENANT CLIENT_ID SCOPE`; the token as one line of JSON.

MSAL takes authorities over TLS alone: the one that is given here over HTTP is called `https://idp.invalid` before it.
"""

import json
import sys
from types import SimpleNamespace

import msal
import requests
from login import REDIRECT_URI, visit

HOST = "https://idp.invalid"


class Http:
    """What MSAL asks through."""

    def __init__(self, authority):
        self.authority = authority

    def get(self, url, **options):
        answer = requests.get(url.replace(HOST, self.authority), **options)
        text = answer.text.replace(self.authority, HOST)
        return SimpleNamespace(status_code=answer.status_code, headers=answer.headers, text=text)

    def post(self, url, **options):
        return requests.post(url.replace(HOST, self.authority), **options)

    def close(self):
        pass


def main(authority, tenant, client_id, scope):
    app = msal.PublicClientApplication(
        client_id, authority=f"{HOST}/{tenant}", http_client=Http(authority), instance_discovery=False
    )
    flow = app.initiate_auth_code_flow([scope], redirect_uri=REDIRECT_URI)
    result = app.acquire_token_by_auth_code_flow(flow, visit(flow["auth_uri"].replace(HOST, authority)))
    if "access_token" not in result:
        sys.exit(f"{result}")
    print(json.dumps({"access_token": result["access_token"]}))


main(*sys.argv[1:])
