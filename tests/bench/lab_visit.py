"""People who open Lab, all at the same moment: a JSON line in, one out. Run by the lab environment's Python (aiohttp).

In: {"way": "ours" | "plain", "url", "people": [[name, password], …]}. Everybody signs in first, which does not count and is
told of by a line. After another line of input all click at once, and each is timed, in seconds since the click: the page of
Lab with its scripts and the REST calls it begins with (`page`), and the result of a first cell (`cell`).
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.lab import Lab, printed

PATIENCE_S = 180.0
BEGINS_WITH = ("/api/kernelspecs", "/lab/api/settings", "/api/contents?content=1", "/api/terminals", "/api/sessions")
"""What Lab asks before anybody can work in it."""


class Person:
    """A browser with its cookies."""

    def __init__(self, way: str, url: str, name: str, password: str) -> None:
        self.way, self.url, self.name, self.password = way, url, name, password
        unsafe = aiohttp.CookieJar(unsafe=True)  # cookies for an IP address
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        self.session = aiohttp.ClientSession(
            cookie_jar=unsafe,
            connector=aiohttp.TCPConnector(ssl=tls, limit=8),
            timeout=aiohttp.ClientTimeout(PATIENCE_S),
        )

    async def get(self, address: str) -> tuple[str, str]:
        """Return where an address leads and the page that is there."""
        headers = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
        async with self.session.get(address, headers=headers, max_redirects=30) as answer:
            text = await answer.text()
            assert answer.status < 400, f"{address}: {answer.status} {text[:300]}"
            return str(answer.url), text

    async def sign_in(self) -> None:
        """Sign in by the form, as far as the page from which Lab is opened."""
        path = "/sign-in" if self.way == "ours" else "/hub/login?next=/hub/home"
        address, page = await self.get(self.url + path)
        form = re.search(r'<form[^>]*method="post"[^>]*>.*?</form>', page, re.S)
        assert form is not None, page[:500]
        hidden = dict(re.findall(r'<input type="hidden"\s+name="([^"]*)"\s+value="([^"]*)"', form[0]))
        action = re.search(r'<form[^>]*action="([^"]*)"', form[0])
        target = urljoin(address, html.unescape(action[1])) if action else address
        headers = {"Origin": self.url, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
        data = {**hidden, "username": self.name, "password": self.password}
        async with self.session.post(target, data=data, headers=headers) as answer:
            text = await answer.text()
            assert answer.status < 400 and 'name="password"' not in text, f"{answer.url}: {answer.status} {text[:500]}"

    async def open(self) -> tuple[str, str]:
        """Click, and follow redirects and the pages that wait for a server, as a browser does, to the page of Lab."""
        address, page = await self.get(self.url + ("/jupyter/" if self.way == "ours" else "/hub/spawn"))
        while "jupyter-config-data" not in page:
            again = re.search(r'http-equiv="refresh" content="(\d+)(?:; url=([^"]*))?"', page)
            events = re.search(r'new EventSource\("([^"]*)"\)', page)
            if events:
                await self._wait(urljoin(address, events[1].encode().decode("unicode_escape")))
            elif again:
                await asyncio.sleep(int(again[1]))
                address = urljoin(address, html.unescape(again[2] or ""))
            else:
                raise AssertionError(f"{address} is not Lab:\n{page[:1000]}")
            address, page = await self.get(address)
        return address, page

    async def _wait(self, address: str) -> None:
        """Follow JupyterHub's progress until the server is ready."""
        async with self.session.get(address, headers={"Accept": "text/event-stream"}) as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    told = json.loads(line[5:])
                    assert not told.get("failed"), told
                    if told.get("ready"):
                        return

    async def visit(self) -> dict[str, Any]:
        """Open Lab and run a cell. Returns the seconds that it took, or what went wrong."""
        begin = time.monotonic()
        try:
            address, page = await self.open()
            config = json.loads(
                page.partition('id="jupyter-config-data" type="application/json">')[2].partition("</script>")[0]
            )
            scripts = re.findall(r'<script[^>]* src="([^"]+)"', page)
            base = urljoin(address, config["baseUrl"]).rstrip("/")
            lab = Lab(self.session, base, {"Authorization": f"token {config['token']}"} if config.get("token") else {})
            await asyncio.gather(
                *(self._fetch(urljoin(address, html.unescape(script))) for script in scripts),
                *(lab.ask("GET", path) for path in BEGINS_WITH),
            )
            shown = time.monotonic() - begin
            kernel = await lab.start_kernel()
            async with lab.channels(kernel) as socket:
                text = printed(await lab.run(socket, "print(6 * 7)", PATIENCE_S))
            assert text == "42\n", text
            return {"page": shown, "cell": time.monotonic() - begin}
        except (AssertionError, aiohttp.ClientError, TimeoutError) as error:
            return {"error": f"{self.name}: {type(error).__name__} {error}"[:600]}

    async def _fetch(self, address: str) -> None:
        async with self.session.get(address) as answer:
            await answer.read()
            assert answer.status == 200, f"{address}: {answer.status}"


async def main() -> None:
    """Do what is asked, tell, and stay until the input ends: pages that are open are part of what is measured."""
    asked = json.loads(sys.stdin.readline())
    people = [Person(asked["way"], asked["url"], *who) for who in asked["people"]]
    for some in range(0, len(people), 4):
        await asyncio.gather(*(person.sign_in() for person in people[some : some + 4]))
    print("signed in", flush=True)
    sys.stdin.readline()
    told = await asyncio.gather(*(person.visit() for person in people))
    print(json.dumps(told), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for person in people:
        await person.session.close()


if __name__ == "__main__":
    asyncio.run(main())
