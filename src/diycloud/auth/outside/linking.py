"""Who somebody whom a provider has proved is here. The rules, in this order:

1. the user they are linked to, by a link or by the column external_id, whichever an administrator set;
2. by the setting `link`: the user of the same name, or of the same confirmed address. Never one whose role reaches beyond
   themselves, who is an administrator of the host, who may not sign in, or who is linked to somebody else there already:
   else whoever registers an administrator's name or address with a provider would be that administrator. Nor one who would
   get rights over others, or another domain, by it: whoever made that account may know its password;
3. by the setting `create`: a new user, without a password;
4. nobody, and they are told to ask an administrator.
"""

from __future__ import annotations

import msgspec
import structlog
from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.actor import SYSTEM, Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.fields import Email, FullName
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth import passwords
from diycloud.auth.outside import identities, mapping
from diycloud.auth.outside.person import Person, exact_name, may_come, username_here
from diycloud.config_sign_in import LDAP, Linking
from diycloud.db.engine import Database
from diycloud.errors import Conflict, HostError, InvalidInput, NotFound, Unauthenticated, Unavailable
from diycloud.host.names import is_reserved
from diycloud.users import placing, repository, shown
from diycloud.users.actions import CreateUser, ModifyUser
from diycloud.users.adopting import NO_PASSWORD
from diycloud.users.models import SIGN_IN, Row

log = structlog.get_logger()
NOBODY = "You are known there, but have no account here."
ASK = "Ask an administrator for one."


class Linker:
    """Finds or makes the user that somebody is. Nothing here asks for a password: that is done."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._database = database
        self._dispatcher = dispatcher

    async def arrive(self, person: Person, rules: Linking, visitor: Actor, *, must_be: int | None = None) -> Row:
        """Return the user that somebody is, with the groups and role that the rules give them by now.

        must_be: who is signed in, and proves it anew; then nobody is linked or made.

        One who may not sign in is returned unchanged: who asks refuses them, in the words for everybody. Raises
        Unauthenticated for who is nobody here.
        """
        row = await self._known(person)
        if must_be is not None and (row is None or row.id != must_be):
            raise Unauthenticated("That is somebody else than who is signed in.", "Sign out first.")
        if row is None:
            if not may_come(person, rules):
                raise Unauthenticated(NOBODY, ASK)
            row = await self._met(person, rules, visitor)
        if row.status not in SIGN_IN:
            return row
        if not may_come(person, rules):
            raise Unauthenticated("You are in none of the groups that may sign in here.", "Ask an administrator.")
        try:
            await self._database.write(_use, row, person)
        except Conflict as error:  # an administrator has changed the link meanwhile
            raise Unauthenticated(NOBODY, ASK) from error
        fresh = await self._database.read(repository.by_id, row.id)
        return await self._mapped(fresh or row, person, rules)

    async def _known(self, person: Person) -> Row | None:
        """Rule 1."""

        def read(connection: Connection) -> Row | None:
            user_id = identities.user_of(connection, person.provider, person.subject)
            return None if user_id is None else repository.by_id(connection, user_id)

        return await self._database.read(read)

    async def _met(self, person: Person, rules: Linking, visitor: Actor) -> Row:
        """Rules 2 to 4. Who comes twice at once is met once: the second finds what the first has stored."""
        try:
            return await self._linked(person, rules, visitor) or await self._made(person, rules, visitor)
        except Conflict:
            row = await self._known(person)
            if row is None:
                raise
            return row

    async def _linked(self, person: Person, rules: Linking, visitor: Actor) -> Row | None:
        """Rule 2."""

        def store(connection: Connection) -> Row | None:
            user_id = identities.user_of(connection, person.provider, person.subject)
            if user_id is not None:  # since `_known` looked
                return repository.by_id(connection, user_id)
            row = candidate(connection, person, rules)
            if row is not None and identities.link(connection, row.id, person.provider, person.subject, vouched=False):
                note(connection, visitor, "identity.link", row, person.provider, person.subject)
            return row

        return None if rules.link == "none" else await self._database.write(store)

    async def _made(self, person: Person, rules: Linking, visitor: Actor) -> Row:
        """Rules 3 and 4. Raises Unauthenticated."""
        username = username_here(person.username)
        if not rules.create:
            raise Unauthenticated(NOBODY, ASK)
        if not username or is_reserved(username):
            log.warning("no user made", provider=person.provider, name=person.username[:100], reason="no name to have")
            raise Unauthenticated(f"{NOBODY[:-1]}, and none can be made for you.", ASK)
        wish = CreateUser(
            username=username,
            password=passwords.generate_password(32),  # nobody's: until they set one, SSH keys alone open the account
            full_name=_fitting(FullName, person.full_name),
            email=await self._own_email(person),
            domain=mapping.mapped(person, rules, role=Role.USER, groups=()).domain or rules.domain,
            external_id=identities.external_id(person.provider, person.subject),
        )
        try:
            await self._dispatcher.run(SYSTEM._replace(address=visitor.address, request_id=visitor.request_id), wish)
        except (Conflict, InvalidInput, HostError) as error:
            if (row := await self._known(person)) is None:  # else they came twice at once
                log.warning("no user made", provider=person.provider, name=username, reason=str(error))
                raise Unauthenticated(f"{NOBODY[:-1]}, and none can be made for you.", ASK) from error
            return row

        def store(connection: Connection) -> Row | None:
            row = repository.by_name(connection, username)
            if row is not None:
                identities.link(connection, row.id, person.provider, person.subject, vouched=True)
                repository.note(connection, row.id, {"password_hash": NO_PASSWORD})
                note(connection, visitor, "identity.link", row, person.provider, person.subject)
            return repository.by_name(connection, username)

        made = await self._database.write(store)
        if made is None:
            raise Unauthenticated(NOBODY, ASK)
        return made

    async def _own_email(self, person: Person) -> str | None:
        """Return an address that is confirmed and nobody else's here."""
        email = _fitting(Email, person.email) if person.email_verified else None
        taken: set[str] = await self._database.read(repository.existing_emails, [email]) if email else set()
        return None if taken else email

    async def _mapped(self, row: Row, person: Person, rules: Linking) -> Row:
        """Give a user the groups, role and domain that the rules ask for.

        Raises Unavailable if something is in the way: rights that ought to be taken away must not stay because of it.
        """
        wanted = mapping.mapped(person, rules, role=row.role, groups=shown.names(row.groups))
        if await self._database.read(_others_may_come, row, person):
            wanted = _not_raised(wanted, row)
        changes: dict[str, object] = {}
        domain = wanted.domain or row.domain
        if domain != row.domain:
            changes["domain"] = domain
        if wanted.role is not None:
            changes["role"] = wanted.role
        if wanted.groups is not None:
            places = await self._database.read(placing.domains_of_groups, wanted.groups)
            if strangers := sorted(name for name in wanted.groups if places.get(name) != domain):
                log.warning("groups left out: not of the user's domain", username=row.username, groups=strangers)
            here = frozenset(wanted.groups) - set(strangers)
            if here != set(shown.names(row.groups)):
                changes["groups"] = tuple(sorted(here))
        if not changes:
            return row
        try:
            await self._dispatcher.run(SYSTEM, ModifyUser(username=row.username, **changes))  # type: ignore[arg-type]
        except (Conflict, InvalidInput, NotFound, HostError) as error:
            log.warning("mapping refused", username=row.username, reason=str(error))
            if row.role is not Role.ADMIN:  # the last administrator stays one
                raise Unavailable(
                    "Your groups there could not be given to you here.", "Ask an administrator."
                ) from error
        fresh = await self._database.read(repository.by_id, row.id)
        if fresh is None:
            raise Unauthenticated(NOBODY, ASK)
        return fresh


def _others_may_come(connection: Connection, row: Row, person: Person) -> bool:
    """Tell whether somebody else may know a password of a user's: of one who was there before, and whom nobody vouched for.

    Whose password the directory keeps comes in by that one only.
    """
    if person.provider == LDAP or row.password_hash == NO_PASSWORD:
        return False
    return not identities.is_vouched(connection, row.id, person.provider)


def _not_raised(wanted: mapping.Mapped, row: Row) -> mapping.Mapped:
    """Return what the rules ask for without rights over others or another domain: whoever made the account would have them."""
    role = None if wanted.role is None or mapping.is_above(wanted.role, row.role) else wanted.role
    domain = None if wanted.domain != row.domain else wanted.domain
    if (role, domain) != (wanted.role, wanted.domain):
        log.warning("rights not given: has a password here, and no administrator made the link", username=row.username)
    return wanted._replace(role=role, domain=domain)


def _use(connection: Connection, row: Row, person: Person) -> None:
    """Note that somebody signs in by a link, making it of the column external_id the first time.

    Whose password the directory keeps has none to change here.
    """
    identities.link(connection, row.id, person.provider, person.subject, vouched=True)
    identities.used(connection, row.id, person.provider)
    if person.provider == LDAP and row.must_change_password:
        repository.change(connection, row.id, {"must_change_password": 0})


def candidate(connection: Connection, person: Person, rules: Linking) -> Row | None:
    """Return the user that somebody may be linked to without an administrator's word."""
    row = None
    if rules.link == "username" and (name := exact_name(person.username)):
        row = repository.by_name(connection, name)
    elif rules.link == "email" and person.email_verified and person.email and person.email.isascii():
        row = identities.by_email(connection, person.email)
    if row is None or row.role is not Role.USER or row.sudo or row.status not in SIGN_IN:
        return None
    if row.external_id and row.external_id.startswith(f"{person.provider}:"):
        return None  # it is set that they are somebody else there
    gets = mapping.mapped(person, rules, role=row.role, groups=shown.names(row.groups))
    if gets.role not in (None, Role.USER) or gets.domain not in (None, row.domain):
        return None
    return row if identities.subject_of(connection, row.id, person.provider) is None else None


def note(connection: Connection, actor: Actor, action: str, row: Row, provider: str, subject: str) -> None:
    """Write into the audit that a user was linked, or a link removed, by signing in."""
    asked = {"provider": provider, "subject": subject}
    entry = audit.begin(connection, actor, action, row.username, asked, domain=row.domain)
    audit.end(connection, entry, "done", duration_ms=0, changes=None)


def _fitting(kind: object, text: str) -> str | None:
    """Return a text if it is what a field takes, None if not."""
    try:
        return msgspec.convert(text, kind) if text else None
    except msgspec.ValidationError:
        return None


async def link_own(services: Services, actor: Actor, person: Person) -> None:
    """Link who is signed in to whom a provider has just proved. Raises Conflict."""

    def store(connection: Connection) -> None:
        row = repository.by_id(connection, actor.user_id or 0)
        if row is None or row.status not in SIGN_IN:
            raise Unauthenticated("Your account is gone.", "Ask an administrator.")
        if identities.link(connection, row.id, person.provider, person.subject, vouched=False):
            note(connection, actor, "identity.link", row, person.provider, person.subject)

    await services.database.write(store)
