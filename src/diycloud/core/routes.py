"""Where each action is found: the table that the REST API, the OpenAPI page and the command line share.

It imports only what declares actions, so that the command line stays quick.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from diycloud.actions.action import Action
from diycloud.auth import actions as auth
from diycloud.resources import actions as resources
from diycloud.users import actions as users

PREFIX = "/api/v1"


class Route(NamedTuple):
    """One action's method and path, and its words on the command line.

    {username} in the path fills the field of that name. status: of success. verb: `noun verb`, empty where the command
    line has no use for it.
    """

    method: str
    path: str
    action: type[Action[Any]]
    verb: str = ""
    status: int = 200


ROUTES = (
    Route("GET", "/users", users.ListUsers, "user list"),
    Route("POST", "/users", users.CreateUser, "user create", 201),
    Route("POST", "/users/import", users.ImportUsers, "user import"),
    Route("GET", "/users/{username}", users.ShowUser, "user show"),
    Route("PATCH", "/users/{username}", users.ModifyUser, "user modify"),
    Route("DELETE", "/users/{username}", users.DeleteUser, "user delete"),
    Route("POST", "/users/{username}/disable", users.DisableUser, "user disable"),
    Route("POST", "/users/{username}/enable", users.EnableUser, "user enable"),
    Route("POST", "/users/{username}/restore", users.RestoreUser, "user restore"),
    Route("GET", "/users/{username}/purge", users.PreviewPurge, "user purge-preview"),
    Route("POST", "/users/{username}/purge", users.PurgeUser, "user purge"),
    Route("PUT", "/users/{username}/password", users.SetPassword, "user set-password"),
    Route("PATCH", "/users/{username}/limits", users.SetLimits, "limits set"),
    Route("GET", "/users/{username}/usage", users.ReadUsage, "usage show"),
    Route("GET", "/audit", auth.ListAudit, "audit list"),
    Route("GET", "/host", resources.ShowHost, "host show"),
    Route("PUT", "/account/password", auth.ChangePassword),
    Route("POST", "/auth/logout", auth.SignOut, "", 204),
)
