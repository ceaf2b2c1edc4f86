"""Programs of others sign people in through our provider: Apache, JupyterHub, and one that does as Portainer does."""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from tests.browser.front import can_run
from tests.conftest import cannot_run
from tests.host.openid_bed import Bed, Browser
from tests.waiting import free_port, until_it_listens

WHY = cannot_run() or can_run()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY or "-")
MODULES = Path("/usr/lib/apache2/modules")
APACHE = shutil.which("apache2", path="/usr/sbin:/usr/bin")
ADA, BOB = "dtoada", "dtobob"


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with Bed() as found:
        found.user(ADA, "--full-name", "Ada Lovelace", "--email", "ada@example.org")
        found.user(BOB)
        found.stack.cli("group", "create", "dtocrew", "--members", ADA)
        yield found


# -- Apache with mod_auth_openidc


CONFIG = """\
ServerRoot {folder}
ServerName 127.0.0.1
PidFile {folder}/apache.pid
Listen 127.0.0.1:{port}
User {user}
ErrorLog {folder}/error.log
DocumentRoot {folder}/pages
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule authz_user_module {modules}/mod_authz_user.so
LoadModule authn_core_module {modules}/mod_authn_core.so
LoadModule include_module {modules}/mod_include.so
LoadModule mime_module {modules}/mod_mime.so
TypesConfig /etc/mime.types
LoadModule auth_openidc_module {modules}/mod_auth_openidc.so
OIDCProviderMetadataURL {issuer}/.well-known/openid-configuration
OIDCCABundlePath {authority}
OIDCClientID apache
OIDCClientSecret {secret}
OIDCRedirectURI http://127.0.0.1:{port}/back
OIDCCryptoPassphrase a-phrase-of-the-tests
OIDCScope "openid profile email groups"
OIDCPKCEMethod S256
OIDCRemoteUserClaim preferred_username
OIDCUserInfoRefreshInterval 1
OIDCRefreshAccessTokenBeforeExpiry 1
<Location />
    AuthType openid-connect
    Require valid-user
</Location>
<Directory {folder}/pages>
    Options +Includes
    AddOutputFilter INCLUDES .shtml
    AddType text/plain .shtml
    Require valid-user
</Directory>
"""
PAGE = '<!--#echo var="REMOTE_USER" -->|<!--#echo var="OIDC_CLAIM_email" -->|<!--#echo var="OIDC_CLAIM_groups" -->\n'


@pytest.fixture(scope="module")
def apache(bed: Bed) -> Iterator[str]:
    """Return the address of an Apache whose pages are for who signed in."""
    if APACHE is None or not (MODULES / "mod_auth_openidc.so").exists():
        pytest.skip("apt install libapache2-mod-auth-openidc: it is not on this machine")
    port, folder = free_port(), bed.stack.prefix / "apache"
    here = f"http://127.0.0.1:{port}"
    secret = bed.app(
        "apache", "--redirect-uris", f"{here}/back", "--logout-uris", f"{here}/bye", "--refresh",
        "--scopes", "openid,profile,email,groups",
    )  # fmt: skip
    (folder / "pages").mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "pages/who.shtml").write_text(PAGE)
    config = CONFIG.format(
        folder=folder, port=port, modules=MODULES, issuer=bed.url, authority=bed.authority, secret=secret,
        user=pwd.getpwuid(65534).pw_name,
    )  # fmt: skip
    (folder / "apache.conf").write_text(config)
    process = subprocess.Popen(
        [APACHE, "-d", str(folder), "-f", str(folder / "apache.conf"), "-DFOREGROUND"], stdin=subprocess.DEVNULL
    )
    try:
        until_it_listens(port, process, (folder / "error.log").read_text)
        yield here
    finally:
        process.terminate()
        process.wait(15)


def test_apache_signs_people_in(bed: Bed, apache: str) -> None:
    with bed.browser() as ada:
        page = ada.go(f"{apache}/who.shtml")
        done = ada.sign_in(page, ADA)
        assert done.text.strip() == f"{ADA}|ada@example.org|dtocrew", done.text
        assert ada.go(f"{apache}/who.shtml").text.startswith(ADA), "signed in"
    with bed.browser() as bob:
        assert bob.sign_in(bob.go(f"{apache}/who.shtml"), BOB).text.startswith(BOB)


def test_apache_signs_people_out_here_too(bed: Bed, apache: str) -> None:
    with bed.browser() as ada:
        ada.sign_in(ada.go(f"{apache}/who.shtml"), ADA)
        assert ada.go(f"{bed.url}/").url.path == "/"
        answer = ada.http.get(f"{apache}/back?{urlencode({'logout': f'{apache}/bye'})}")
        there = urlsplit(answer.headers["location"])
        assert there.path == "/oidc/logout" and parse_qs(there.query)["id_token_hint"]
        back = ada.http.get(answer.headers["location"])
        assert (back.status_code, back.headers["location"].partition("?")[0]) == (303, f"{apache}/bye")
        assert ada.go(f"{bed.url}/").url.path == "/sign-in", "one sign-out for everything"


def test_apache_lets_nobody_in_who_may_no_more(bed: Bed, apache: str) -> None:
    with bed.browser() as bob:
        page = bob.go(f"{apache}/who.shtml")
        bed.stack.cli("user", "disable", BOB)
        try:
            with pytest.raises(AssertionError, match="wrong"):
                bob.sign_in(page, BOB)
        finally:
            bed.stack.cli("user", "enable", BOB)


def test_apache_refuses_an_answer_of_another_issuer(bed: Bed, apache: str) -> None:
    """RFC 9207 and state: what comes back must be of the provider that was asked."""
    with bed.browser() as ada:
        ada.sign_in(ada.go(f"{bed.url}/"), ADA)
        started = ada.http.get(f"{apache}/who.shtml")
        answer = ada.http.get(started.headers["location"])
        good = answer.headers["location"]
        evil = good.replace(f"iss={bed.url.replace(':', '%3A').replace('/', '%2F')}", "iss=https%3A%2F%2Fevil.test")
        assert evil != good
        assert "Error" in ada.http.get(evil).text, "the page of the module's own, with status 200"
        assert ada.http.get(f"{apache}/who.shtml").status_code == 302, "not signed in"


# -- a plain OAuth client with the endpoints that Portainer has settings for


class Portainer:
    """Does as Portainer's Go does: tries Basic, then parameters; reads userinfo; believes the ID token unseen."""

    def __init__(self, bed: Bed, back: str) -> None:
        self.bed, self.back = bed, back
        self.settings = {
            "AuthorizationURI": f"{bed.url}/oidc/authorize", "AccessTokenURI": f"{bed.url}/oidc/token",
            "ResourceURI": f"{bed.url}/oidc/userinfo", "UserIdentifier": "preferred_username",
            "Scopes": "openid profile", "ClientID": "portainer", "ClientSecret": bed.secrets["portainer"],
        }  # fmt: skip
        self.http = httpx.Client(verify=ssl.create_default_context(cafile=bed.authority))

    def address(self) -> str:
        asked = {"response_type": "code", "client_id": self.settings["ClientID"], "redirect_uri": self.back}
        return f"{self.settings['AuthorizationURI']}?{urlencode({**asked, 'scope': self.settings['Scopes']})}"

    def validate(self, code: str, secret: str | None = None) -> str:
        """Return who signed in. Raises AssertionError as Portainer answers 500."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.back}
        name, secret = self.settings["ClientID"], secret or self.settings["ClientSecret"]
        answer = self.http.post(self.settings["AccessTokenURI"], data=form, auth=(name, secret))
        if answer.status_code != 200:
            form |= {"client_id": name, "client_secret": secret}
            answer = self.http.post(self.settings["AccessTokenURI"], data=form)
        assert answer.status_code == 200, answer.text
        token = answer.json()
        assert token["token_type"].lower() == "bearer"
        told = self.http.get(self.settings["ResourceURI"], headers={"authorization": f"Bearer {token['access_token']}"})
        assert told.status_code == 200 and told.headers["content-type"] == "application/json"
        part = token["id_token"].split(".")[1]
        claims = told.json() | json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(claims[self.settings["UserIdentifier"]])


def test_portainers_way(bed: Bed) -> None:
    back = "https://127.0.0.1:9443/portainer/"
    bed.app("portainer", "--redirect-uris", back, "--no-pkce", "--scopes", "openid,profile")
    portainer = Portainer(bed, back)
    with portainer.http, bed.browser() as ada:
        ada.sign_in(ada.go(f"{bed.url}/"), ADA)

        def code() -> str:
            answer = ada.http.get(portainer.address())
            assert answer.headers["location"].startswith(f"{back}?code="), answer.headers
            return parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]

        used = code()
        assert portainer.validate(used) == ADA
        for attempt in (lambda: portainer.validate(used), lambda: portainer.validate(code(), "wrong")):
            with pytest.raises(AssertionError, match="invalid_"):
                attempt()


def test_nginx_passes_it_on_with_bounds(bed: Bed) -> None:
    context = ssl.create_default_context(cafile=bed.authority)
    with httpx.Client(verify=context, base_url=bed.url) as http:
        found = http.get("/.well-known/openid-configuration")
        assert found.json()["issuer"] == bed.url and "max-age=31536000" in found.headers["strict-transport-security"]
        assert http.post("/oidc/token", content=b"x" * 100_000).status_code == 413
        long = http.get("/oidc/authorize?" + urlencode({"client_id": "nobody", "state": "s" * 4000}))
        assert long.status_code == 422


# -- JupyterHub with oauthenticator's GenericOAuthenticator


HUB = """\
from jupyterhub.proxy import Proxy


class NoProxy(Proxy):
    should_start = False

    async def add_route(self, routespec, target, data):
        pass

    async def delete_route(self, routespec):
        pass

    async def get_all_routes(self):
        return {{}}


c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = c.JupyterHub.hub_bind_url = "{here}"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.db"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.JupyterHub.authenticator_class = "generic-oauth"
c.GenericOAuthenticator.client_id = "hub"
c.GenericOAuthenticator.client_secret = "{secret}"
c.GenericOAuthenticator.oauth_callback_url = "{here}/hub/oauth_callback"
c.GenericOAuthenticator.authorize_url = "{issuer}/oidc/authorize"
c.GenericOAuthenticator.token_url = "{issuer}/oidc/token"
c.GenericOAuthenticator.userdata_url = "{issuer}/oidc/userinfo"
c.GenericOAuthenticator.scope = ["openid", "profile", "groups"]
c.GenericOAuthenticator.username_claim = "preferred_username"
c.GenericOAuthenticator.manage_groups = True
c.GenericOAuthenticator.auth_state_groups_key = "oauth_user.groups"
c.GenericOAuthenticator.enable_auth_state = True
c.GenericOAuthenticator.allow_all = True
c.GenericOAuthenticator.auto_login = True
c.Authenticator.auth_refresh_age = 1
"""


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with JupyterHub; HUB_VENV names one that is there already."""
    if there := os.environ.get("HUB_VENV"):
        return Path(there)
    folder = tmp_path_factory.mktemp("hub") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = ["jupyterhub==6.1.1", "oauthenticator==17.4.0"]
    done = subprocess.run(
        [str(folder / "bin/pip"), "install", "-q", *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"pip cannot install JupyterHub here: {done.stderr[-200:]}")
    return folder


@pytest.fixture(scope="module")
def hub(bed: Bed, venv: Path) -> Iterator[str]:
    """Return the address of a hub that signs people in through us."""
    port, folder = free_port(), bed.stack.prefix / "hub"
    here = f"http://127.0.0.1:{port}"
    secret = bed.app(
        "hub", "--redirect-uris", f"{here}/hub/oauth_callback", "--scopes", "openid,profile,groups", "--refresh"
    )
    folder.mkdir()
    (folder / "hub.py").write_text(HUB.format(here=here, folder=folder, secret=secret, issuer=bed.url))
    env = {
        "PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(folder), "SSL_CERT_FILE": bed.authority,
        "JUPYTERHUB_CRYPT_KEY": "0" * 64,
    }  # fmt: skip
    with (folder / "hub.log").open("wb") as log:
        process = subprocess.Popen(
            [str(venv / "bin/jupyterhub"), "-f", str(folder / "hub.py")], cwd=folder, env=env, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        until_it_listens(port, process, (folder / "hub.log").read_text)
        yield here
    finally:
        process.terminate()
        process.wait(30)


def who(browser: Browser, hub: str) -> httpx.Response:
    return browser.http.get(f"{hub}/hub/api/user", headers={"referer": f"{hub}/hub/home"})


@pytest.mark.slow
def test_jupyterhub_signs_people_in(bed: Bed, hub: str) -> None:
    with bed.browser() as ada:
        done = ada.sign_in(ada.go(f"{hub}/hub/home"), ADA)
        assert done.status_code == 200 and ADA in done.text, done.text[:2000]
        person = who(ada, hub).json()
        assert (person["name"], person["groups"], person["admin"]) == (ADA, ["dtocrew"], False)
        assert "hub" in ada.go(f"{bed.url}/account/apps").text


@pytest.mark.slow
def test_who_is_disabled_is_out_of_the_hub_too(bed: Bed, hub: str) -> None:
    with bed.browser() as bob:
        bob.sign_in(bob.go(f"{hub}/hub/home"), BOB)
        assert who(bob, hub).json()["name"] == BOB
        bed.stack.cli("user", "disable", BOB)
        try:
            time.sleep(2)
            assert who(bob, hub).status_code in (401, 403)
            assert bob.go(f"{hub}/hub/home").url.path == "/sign-in"
        finally:
            bed.stack.cli("user", "enable", BOB)
