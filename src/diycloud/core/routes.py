"""Where each action is found: the table that the REST API, the OpenAPI page and the command line share.

It imports only what declares actions, so that the command line stays quick.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from diycloud.actions.action import Action, Permission
from diycloud.auth import actions as auth
from diycloud.auth import factor_actions as factors
from diycloud.auth.oidc import actions as apps
from diycloud.auth.outside import actions as outside
from diycloud.domains import actions as domains
from diycloud.groups import actions as groups
from diycloud.notebooks import actions as notebooks
from diycloud.policies import actions as policies
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

    @property
    def keyed(self) -> bool:
        """Whether it takes an Idempotency-Key: what would be made twice if a request were sent again.

        Of one's own sign-in nothing is; and what it gives (codes, a session's token) is kept nowhere.
        """
        made = self.method == "POST" and "{" not in self.path and self.status != 204
        return made and self.action.permission is not Permission.ACCOUNT


ROUTES = (
    Route("GET", "/users", users.ListUsers, "user list"),
    Route("POST", "/users", users.CreateUser, "user create", 201),
    Route("POST", "/users/import", users.ImportUsers, "user import"),
    Route("POST", "/users/bulk", users.BulkUsers, "user bulk"),
    Route("GET", "/export/users", users.ExportUsers, "user export"),  # below /users it would be a user's name
    Route("GET", "/users/{username}", users.ShowUser, "user show"),
    Route("PATCH", "/users/{username}", users.ModifyUser, "user modify"),
    Route("DELETE", "/users/{username}", users.DeleteUser, "user delete"),
    Route("POST", "/users/{username}/disable", users.DisableUser, "user disable"),
    Route("POST", "/users/{username}/enable", users.EnableUser, "user enable"),
    Route("POST", "/users/{username}/restore", users.RestoreUser, "user restore"),
    Route("GET", "/users/{username}/purge", users.PreviewPurge, "user purge-preview"),
    Route("POST", "/users/{username}/purge", users.PurgeUser, "user purge"),
    Route("POST", "/users/{username}/adopt", users.AdoptUser, "user adopt"),
    Route("PUT", "/users/{username}/sudo", users.SetSudo, "user sudo"),
    Route("PUT", "/users/{username}/password", users.SetPassword, "user set-password"),
    Route("PATCH", "/users/{username}/limits", users.SetLimits, "limits set"),
    Route("GET", "/users/{username}/usage", users.ReadUsage, "usage show"),
    Route("POST", "/users/{username}/policy", policies.ApplyPolicy, "policy apply"),
    Route("GET", "/policies", policies.ListPolicies, "policy list"),
    Route("POST", "/policies", policies.CreatePolicy, "policy create", 201),
    Route("GET", "/policies/{name}", policies.ShowPolicy, "policy show"),
    Route("PATCH", "/policies/{name}", policies.ModifyPolicy, "policy modify"),
    Route("DELETE", "/policies/{name}", policies.RemovePolicy, "policy remove", 204),
    Route("GET", "/domains", domains.ListDomains, "domain list"),
    Route("POST", "/domains", domains.CreateDomain, "domain create", 201),
    Route("GET", "/domains/{name}", domains.ShowDomain, "domain show"),
    Route("PATCH", "/domains/{name}", domains.ModifyDomain, "domain modify"),
    Route("DELETE", "/domains/{name}", domains.RemoveDomain, "domain remove", 204),
    Route("GET", "/groups", groups.ListGroups, "group list"),
    Route("POST", "/groups", groups.CreateGroup, "group create", 201),
    Route("GET", "/groups/{name}", groups.ShowGroup, "group show"),
    Route("PATCH", "/groups/{name}", groups.ModifyGroup, "group modify"),
    Route("DELETE", "/groups/{name}", groups.RemoveGroup, "group remove", 204),
    Route("GET", "/groups/{name}/removal", groups.PreviewRemoveGroup, "group remove-preview"),
    Route("POST", "/groups/{name}/members", groups.AddMembers, "group add-members"),
    Route("DELETE", "/groups/{name}/members", groups.RemoveMembers, "group remove-members"),
    Route("GET", "/users/{username}/keys", auth.ListKeys, "key list"),
    Route("POST", "/users/{username}/keys", auth.AddKey, "key add"),
    Route("DELETE", "/users/{username}/keys", auth.RemoveKey, "key remove"),
    Route("GET", "/users/{username}/notebooks", notebooks.ListNotebooks, "notebook list"),
    Route("POST", "/users/{username}/notebooks", notebooks.StartNotebook, "notebook start"),
    Route("DELETE", "/users/{username}/notebooks", notebooks.StopNotebook, "notebook stop"),
    Route("GET", "/sessions", auth.ListSessions, "session list"),
    Route("GET", "/users/{username}/sessions", auth.ShowSessions, "session show"),
    Route("DELETE", "/users/{username}/sessions/{session}", auth.EndSession, "session end", 204),
    Route("DELETE", "/users/{username}/sessions", auth.EndSessions, "user sign-out", 204),
    Route("GET", "/users/{username}/tokens", auth.ListTokens, "token list"),
    Route("POST", "/users/{username}/tokens", auth.CreateToken, "token create", 201),
    Route("DELETE", "/users/{username}/tokens/{key_id}", auth.RevokeToken, "token revoke", 204),
    Route("GET", "/throttle", auth.ListWaiting, "session waiting"),
    Route("DELETE", "/users/{username}/throttle", auth.ClearThrottle, "user clear-throttle", 204),
    Route("GET", "/apps", apps.ListApps, "app list"),
    Route("POST", "/apps", apps.CreateApp, "app create", 201),
    Route("GET", "/apps/{name}", apps.ShowApp, "app show"),
    Route("PATCH", "/apps/{name}", apps.ModifyApp, "app modify"),
    Route("POST", "/apps/{name}/secret", apps.RotateSecret, "app rotate-secret"),
    Route("DELETE", "/apps/{name}", apps.RemoveApp, "app remove", 204),
    Route("POST", "/signing-keys", apps.RotateKeys, "app rotate-keys"),
    Route("GET", "/account/apps", apps.ListOwnApps, "account apps"),
    Route("DELETE", "/account/apps/{name}", apps.WithdrawApp, "account withdraw-app", 204),
    Route("GET", "/users/{username}/identities", outside.ListIdentities, "user identities"),
    Route("POST", "/users/{username}/identities", outside.LinkIdentity, "user link"),
    Route("DELETE", "/users/{username}/identities", outside.UnlinkIdentity, "user unlink"),
    Route("GET", "/audit", auth.ListAudit, "audit list"),
    Route("GET", "/audit/export", auth.ExportAudit, "audit export"),
    Route("GET", "/host", resources.ShowHost, "host show"),
    Route("GET", "/metrics", resources.ReadMetrics, ""),
    Route("PUT", "/account/password", auth.ChangePassword, "account password"),
    Route("POST", "/account/proof", auth.Prove, ""),
    Route("GET", "/users/{username}/second-factor", factors.ShowFactors, "factor show"),
    Route("DELETE", "/users/{username}/second-factor", factors.ResetFactors, "factor reset"),
    Route("POST", "/account/totp", factors.BeginTotp, "factor begin-totp"),
    Route("PUT", "/account/totp", factors.ActivateTotp, "factor activate-totp"),
    Route("DELETE", "/account/totp", factors.RemoveTotp, "factor remove-totp"),
    Route("POST", "/account/recovery-codes", factors.RenewCodes, "factor renew-codes"),
    Route("POST", "/account/passkeys/begin", factors.BeginPasskey, ""),
    Route("POST", "/account/passkeys", factors.AddPasskey, ""),
    Route("PATCH", "/account/passkeys/{passkey}", factors.RenamePasskey, "passkey rename"),
    Route("DELETE", "/account/passkeys/{passkey}", factors.RemovePasskey, "passkey remove"),
    Route("POST", "/auth/logout", auth.SignOut, "", 204),
)


def result_type(action: type[Action[Any]]) -> Any:
    """Return the type of an action's result, from its base `Action[R]`."""
    return get_args(action.__orig_bases__[0])[0]  # type: ignore[attr-defined]  # set for subclasses of a generic class
