"""What the rest of the program asks of the outside: one object, there if the settings name a directory or a provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth.ending import end_everything
from diycloud.auth.outside import identities, journey
from diycloud.auth.outside.linking import Linker
from diycloud.auth.outside.person import Person
from diycloud.config_sign_in import LDAP, Linking
from diycloud.errors import NotFound, Unauthenticated, Unavailable
from diycloud.notebooks import eviction
from diycloud.users import host, repository, service
from diycloud.users.models import SIGN_IN, Row

if TYPE_CHECKING:
    from diycloud.auth.outside.ldap import Directory
    from diycloud.auth.outside.openid import Provider

log = structlog.get_logger()


class Outside:
    """The directory and the providers of the settings. directory: None without one; providers: by name."""

    def __init__(self, services: Services, dispatcher: Dispatcher) -> None:
        self._services, self._settings = services, services.settings.sign_in
        self._linker = Linker(services.database, dispatcher)
        self.directory: Directory | None = None
        self.providers: dict[str, Provider] = {}
        self._spent = journey.Spent()
        if self._settings.ldap is not None:
            from diycloud.auth.outside.ldap import Directory

            self.directory = Directory(self._settings.ldap)
        if self._settings.providers:
            from diycloud.auth.outside.openid import Provider

            self.providers = {found.name: Provider(found) for found in self._settings.providers}

    async def close(self) -> None:
        """End what waits for answers."""
        if self.directory is not None:
            await self.directory.close()
        for provider in self.providers.values():
            await provider.close()

    async def subject(self, row: Row | None) -> str | None:
        """Return whom the directory has to say that a user is, None for one whose password is kept here."""
        if row is None or self.directory is None:
            return None
        return await self._services.database.read(identities.subject_of, row.id, LDAP)

    async def by_password(
        self, username: str, password: str, row: Row | None, subject: str | None, visitor: Actor
    ) -> Row | None:
        """Return the user whom a name and password prove to the directory, None if they prove nobody.

        row: who has that name here; a password that is wrong for a user who could not be linked anyway is shown to
        nobody. Raises Unauthenticated for who is nobody here, Unavailable.
        """
        settings = self._settings.ldap
        if self.directory is None or settings is None:
            return None
        may = row is None or subject is not None or self._might_be_linked(row)
        person = await self.directory.prove(username, password, subject=subject, may=may)
        if person is None:
            return None
        found = await self.arrive(person, visitor)
        return await self._with_host_password(found, password) if settings.host_password else found

    def _might_be_linked(self, row: Row) -> bool:
        rules = self._rules(LDAP)
        if row.external_id and row.external_id.startswith(f"{LDAP}:"):
            return True
        return rules.link != "none" and row.role is Role.USER and not row.sudo

    async def password_holds(self, row: Row, subject: str, password: str) -> bool:
        """Tell whether the directory takes a password of a user that is linked to a subject."""
        person = await self.directory.prove(row.username, password, subject=subject) if self.directory else None
        return person is not None and person.subject == subject

    async def depart(self, name: str, actor: Actor, *, base: str, target: str, what_for: str) -> tuple[str, str]:
        """Return the address at a provider to send somebody to, and the cookie to keep. base: of the portal, with a slash.

        Raises NotFound, Unavailable.
        """
        provider = self.provider(name)
        url, pending = await provider.start(_way_back(base, name), again=what_for == journey.AGAIN)
        started, mine = int(time.time()), (actor.user_id or 0, actor.session_id or 0)
        return url, journey.seal(self._services.vault, journey.Journey(name, pending, what_for, target, started, *mine))

    async def come_back(
        self, name: str, answer: Mapping[str, str], cookie: str, actor: Actor, *, base: str
    ) -> tuple[Person, journey.Journey]:
        """Return who came back from a provider, and the journey it was. answer: the query they came with.

        Raises Unauthenticated for an answer that does not hold, or of another browser or time; NotFound, Unavailable.
        """
        provider = self.provider(name)
        found = journey.unseal(self._services.vault, cookie)
        if found is None or found.provider != name:
            raise Unauthenticated(
                f"Coming back from {provider.label} took too long, or was in another browser.", "Try again."
            )
        if (found.user_id, found.session_id) != (actor.user_id or 0, actor.session_id or 0):
            raise Unauthenticated("You signed in or out meanwhile.", "Try again.")
        if not self._spent.spend(found.pending.state):
            raise Unauthenticated("This answer was used before.", "Try again.")
        again = found.what_for == journey.AGAIN
        return await provider.finish(answer, found.pending, _way_back(base, name), again=again), found

    def provider(self, name: str) -> Provider:
        """Return a provider of the settings. Raises NotFound."""
        if name not in self.providers:
            raise NotFound("There is no such provider.", "See sign_in.providers in the settings.")
        return self.providers[name]

    async def arrive(self, person: Person, visitor: Actor, *, must_be: int | None = None) -> Row:
        """Return the user that somebody is here (linking.Linker.arrive)."""
        return await self._linker.arrive(person, self._rules(person.provider), visitor, must_be=must_be)

    def _rules(self, provider: str) -> Linking:
        rules = self._settings.rules_of(provider)
        if rules is None:
            raise NotFound(f"{provider} is no provider of the settings any more.", "See sign_in in the settings.")
        return rules

    async def find(self, name: str) -> Person:
        """Return whom the directory knows by a name. Raises NotFound, Unavailable."""
        if self.directory is None:
            raise NotFound("There is no directory in the settings.", "Set sign_in.ldap, or give the subject itself.")
        person = await self.directory.find(name)
        if person is None:
            raise NotFound(f"The directory knows no {name!r}, or more than one.", "See sign_in.ldap.user_filter.")
        return person

    async def _with_host_password(self, row: Row, password: str) -> Row:
        """Give the host the password that was just proved, if it is another than the last time; returns the user as stored.

        An administrator of the host keeps theirs: the agent changes no such password (docs/explanation/agent.md).
        """
        services = self._services
        known = not row.password_void and await services.hasher.verify(password, row.password_hash)
        if row.portal_only or row.sudo or row.status not in SIGN_IN or known:
            return row
        try:
            shadow = await service.shadow_hash(services, password)
            if shadow is None:
                return row
            hashed = await services.hasher.hash(password)
            values = {"password_hash": hashed, "shadow_hash": shadow, "password_changed_at": repository.NOW}
            await services.database.write(repository.change, row.id, values)
            fresh = await services.database.read(repository.by_id, row.id)
            if fresh is not None:
                await host.settle(services, [fresh])
        except Unavailable:
            log.warning("host password not set yet", username=row.username)
        return await services.database.read(repository.by_id, row.id) or row

    async def keep_checking(self) -> None:
        """Look again and again whether who is signed in is still in the directory."""
        minutes = self._settings.ldap.check_minutes if self._settings.ldap is not None else 0
        while minutes:
            await asyncio.sleep(minutes * 60)
            try:
                await self.sign_out_gone()
            except Unavailable as error:
                log.warning("directory not checked", reason=error.message)
            except Exception:
                log.exception("check of the directory crashed")

    async def sign_out_gone(self) -> list[str]:
        """End everything that lets in users who are not in the directory any more; returns their names.

        Not of all at once, if there are more than a few: then it is the directory or a setting that is wrong.
        """
        if self.directory is None:
            return []
        database = self._services.database
        here = await database.read_long(identities.let_in, LDAP)
        missing = set(await self.directory.missing([subject for _, _, subject in here]))
        gone = [(user_id, name) for user_id, name, subject in here if subject in missing]
        if len(gone) > 3 and len(gone) == len(here):
            log.error("the directory knows nobody who is signed in; nobody is signed out", users=len(gone))
            return []
        for user_id, name in gone:
            await database.write(end_everything, self._services, user_id)
            await eviction.carry_out(self._services, name)
            log.info("signed out: not in the directory any more", username=name)
        return [name for _, name in gone]


def _way_back(base: str, name: str) -> str:
    """Return the redirect URI that is registered with a provider."""
    return f"{base}sign-in/with/{name}/back"
