"""Who asks: decided at the door for each request, and handed to the model. Pure.

The role says what is there for a caller, the scope what may be done with it. A session has the scope of its user's
role; a token may have less.
"""

from __future__ import annotations

from dataclasses import dataclass

ADMIN, USER = "admin", "user"
"""Roles: everything is there for an admin, for a user only what is theirs."""

READ, CLONE = "read", "clone"
SCOPES = (READ, CLONE, ADMIN)
"""What may be done: nothing but look; clone too, and end or delete what is one's own; everything."""

FIRST_ADMIN = "admin"
"""The user name that goes with the token of the state directory."""

TOKEN = "token:"  # noqa: S105 - no secret
"""What the name begins with of a token that acts for nobody."""


@dataclass(frozen=True)
class Caller:
    """`name` is that of a user of the system, `token:<name>` for a token that acts for nobody, or FIRST_ADMIN."""

    name: str
    groups: frozenset[str] = frozenset()
    role: str = USER
    scope: str = READ

    @property
    def is_admin(self) -> bool:
        """Whether everything is there for the caller, whatever may be done with it."""
        return self.role == ADMIN

    @property
    def may_change(self) -> bool:
        """Whether the caller may do more than look."""
        return self.scope != READ

    def may_remove(self, owner: str) -> bool:
        """Whether the caller may end or delete what `owner` made ('': nobody whom one knows)."""
        return self.scope == ADMIN or (self.scope == CLONE and self.made(owner))

    def made(self, owner: str) -> bool:
        """Whether what `owner` made is the caller's own."""
        return owner != "" and owner == self.name


NOBODY = Caller("")
"""Of whom nothing is known: nothing is there for them, and nothing may be done."""

ANYBODY = Caller(FIRST_ADMIN, role=ADMIN, scope=ADMIN)
"""Whoever comes in where no log-in is asked for, or with the token of the state directory."""
