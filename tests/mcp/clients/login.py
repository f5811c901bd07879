"""What the Python logins share: a store for tokens, and a browser whose user is signed in already."""

from urllib.parse import parse_qs, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

REDIRECT_URI = "http://localhost:3030/callback"


class Store:
    """Tokens and the client's registration, in memory."""

    def __init__(self):
        self.tokens = self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Stay(HTTPRedirectHandler):
    """Tells where it is led and does not go there."""

    def http_error_302(self, request, answer, code, message, headers):
        return answer


def visit(address):
    """Follows redirects like a browser, up to the client's own address; what that is told."""
    browser = build_opener(Stay)
    while not address.startswith(REDIRECT_URI):
        address = browser.open(address).headers["location"]
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


METADATA = {
    "client_name": "a stock client",
    "redirect_uris": [REDIRECT_URI],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
}
