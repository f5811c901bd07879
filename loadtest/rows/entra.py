"""An authority that signs tokens as Entra ID does (RS256), so that its callers can be measured beside those of HS256."""

import base64
import json
import subprocess
import time

TENANT = "8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11"
AUDIENCE = "11111111-2222-4333-8444-555555555555"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*words, given=b""):
    return subprocess.run(["openssl", *words], input=given, check=True, capture_output=True).stdout


class Authority:
    """Its documents stand on an nginx; its key is made here and gone with the stage."""

    def __init__(self, stage):
        self.stage, self.key = stage, stage.folder / "authority.pem"
        openssl("genrsa", "-out", str(self.key), "2048")
        modulus = bytes.fromhex(openssl("rsa", "-in", str(self.key), "-noout", "-modulus").decode().strip().split("=")[1])
        port = stage.port()
        self.url = f"http://127.0.0.1:{port}"
        keys = {"keys": [{"kty": "RSA", "use": "sig", "kid": "loadtest", "n": base64url(modulus), "e": "AQAB"}]}
        pages = {f"/{TENANT}/discovery/v2.0/keys": keys, f"/{TENANT}/discovery/keys": keys}
        for version, issuer in (("v2.0/", f"{self.url}/{TENANT}/v2.0"), ("", f"https://sts.windows.net/{TENANT}/")):
            pages[f"/{TENANT}/{version}.well-known/openid-configuration"] = {
                "issuer": issuer, "jwks_uri": f"{self.url}/{TENANT}/discovery/{version}keys",
                "authorization_endpoint": f"{self.url}/{TENANT}/oauth2/{version}authorize",
                "token_endpoint": f"{self.url}/{TENANT}/oauth2/{version}token"}
        places = "".join(f"location = {path} {{ return 200 '{json.dumps(page)}'; }}\n" for path, page in pages.items())
        process = stage.nginx(
            "authority", f"server {{ listen 127.0.0.1:{port}; default_type application/json; {places} }}")
        stage.await_answer(process, keys_address(self.url))

    def configuration(self):
        """What the gateway has to be told."""
        return f'[auth.entra]\ntenant_id = "{TENANT}"\naudience = ["{AUDIENCE}"]\nauthority = "{self.url}"\n'

    def tokens(self, name, emails):
        """A file of access tokens, one for each of these users."""
        file = self.stage.folder / f"{name}.tokens"
        file.write_text("".join(f"{self.token(number, email)}\n" for number, email in enumerate(emails)))
        return file

    def token(self, number, email):
        now = int(time.time())
        oid = f"00000000-0000-4000-8000-{number:012}"
        claims = {"aud": AUDIENCE, "iss": f"{self.url}/{TENANT}/v2.0", "iat": now, "nbf": now, "exp": now + 7200,
                  "aio": "AWQAm/8XAAAA", "azp": "66666666-7777-4888-9999-aaaaaaaaaaaa", "azpacr": "0", "name": "Somebody",
                  "oid": oid, "preferred_username": email, "rh": "0.AXoA", "scp": "Tools.Call", "sub": f"subject-of-{oid}",
                  "tid": TENANT, "uti": f"uti-{number}", "ver": "2.0"}
        head = {"typ": "JWT", "alg": "RS256", "kid": "loadtest"}
        text = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{base64url(openssl('dgst', '-sha256', '-sign', str(self.key), given=text.encode()))}"


def keys_address(url):
    return f"{url}/{TENANT}/discovery/v2.0/keys"
