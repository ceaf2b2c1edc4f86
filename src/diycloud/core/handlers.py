"""Every action with the function that does it."""

from __future__ import annotations

from typing import Any

from diycloud.actions.action import Action
from diycloud.actions.dispatcher import Handler
from diycloud.auth import actions as auth
from diycloud.auth import factor_actions as factors
from diycloud.auth import factor_service, history, keys, signed_in
from diycloud.auth import service as auth_service
from diycloud.auth.oidc import actions as apps
from diycloud.auth.oidc import service as apps_service
from diycloud.auth.outside import actions as outside
from diycloud.auth.outside import service as outside_service
from diycloud.core import metrics
from diycloud.domains import actions as domains
from diycloud.domains import service as domains_service
from diycloud.groups import actions as groups
from diycloud.groups import service as groups_service
from diycloud.notebooks import actions as notebooks
from diycloud.notebooks import service as notebooks_service
from diycloud.policies import actions as policies
from diycloud.policies import service as policies_service
from diycloud.resources import actions as resources
from diycloud.resources import service as resources_service
from diycloud.users import actions as users
from diycloud.users import adopting, bulk, exporting, importing, life, service, usage

HANDLERS: dict[type[Action[Any]], Handler] = {
    users.CreateUser: service.create_user,
    users.ShowUser: service.show_user,
    users.ListUsers: service.list_users,
    users.ModifyUser: service.modify_user,
    users.SetLimits: service.modify_user,
    users.DisableUser: life.disable_user,
    users.EnableUser: life.enable_user,
    users.DeleteUser: life.delete_user,
    users.RestoreUser: life.restore_user,
    users.PreviewPurge: life.preview_purge,
    users.PurgeUser: life.purge_user,
    users.AdoptUser: adopting.adopt_user,
    users.SetSudo: adopting.set_sudo,
    users.SetPassword: service.set_password,
    users.ImportUsers: importing.import_users,
    users.BulkUsers: bulk.bulk_users,
    users.ExportUsers: exporting.export_users,
    users.ReadUsage: usage.read_usage,
    policies.ApplyPolicy: policies_service.apply_policy,
    policies.ListPolicies: policies_service.list_policies,
    policies.CreatePolicy: policies_service.create_policy,
    policies.ShowPolicy: policies_service.show_policy,
    policies.ModifyPolicy: policies_service.modify_policy,
    policies.RemovePolicy: policies_service.remove_policy,
    domains.ListDomains: domains_service.list_domains,
    domains.CreateDomain: domains_service.create_domain,
    domains.ShowDomain: domains_service.show_domain,
    domains.ModifyDomain: domains_service.modify_domain,
    domains.RemoveDomain: domains_service.remove_domain,
    groups.ListGroups: groups_service.list_groups,
    groups.CreateGroup: groups_service.create_group,
    groups.ShowGroup: groups_service.show_group,
    groups.ModifyGroup: groups_service.modify_group,
    groups.AddMembers: groups_service.add_members,
    groups.RemoveMembers: groups_service.remove_members,
    groups.PreviewRemoveGroup: groups_service.preview_removal,
    groups.RemoveGroup: groups_service.remove_group,
    auth.ChangePassword: auth_service.change_password,
    auth.SignOut: auth_service.sign_out,
    auth.ListKeys: keys.list_keys,
    auth.AddKey: keys.add_key,
    auth.RemoveKey: keys.remove_key,
    auth.Prove: auth_service.prove,
    auth.ListSessions: signed_in.list_sessions,
    auth.ShowSessions: signed_in.show_sessions,
    auth.EndSession: signed_in.end_session,
    auth.EndSessions: signed_in.end_sessions,
    auth.CreateToken: auth_service.create_token,
    auth.ListTokens: auth_service.list_tokens,
    auth.RevokeToken: auth_service.revoke_token,
    auth.ListWaiting: auth_service.list_waiting,
    auth.ClearThrottle: auth_service.clear_throttle,
    factors.ShowFactors: factor_service.show_factors,
    factors.ResetFactors: factor_service.reset_factors,
    factors.BeginTotp: factor_service.begin_totp,
    factors.ActivateTotp: factor_service.activate_totp,
    factors.RemoveTotp: factor_service.remove_totp,
    factors.RenewCodes: factor_service.renew_codes,
    factors.BeginPasskey: factor_service.begin_passkey,
    factors.AddPasskey: factor_service.add_passkey,
    factors.RenamePasskey: factor_service.rename_passkey,
    factors.RemovePasskey: factor_service.remove_passkey,
    outside.ListIdentities: outside_service.list_identities,
    outside.LinkIdentity: outside_service.link_identity,
    outside.UnlinkIdentity: outside_service.unlink_identity,
    notebooks.ListNotebooks: notebooks_service.list_notebooks,
    notebooks.StartNotebook: notebooks_service.start_notebook,
    notebooks.StopNotebook: notebooks_service.stop_notebook,
    auth.ListAudit: history.list_audit,
    auth.ExportAudit: history.export_audit,
    apps.CreateApp: apps_service.create_app,
    apps.ListApps: apps_service.list_apps,
    apps.ShowApp: apps_service.show_app,
    apps.ModifyApp: apps_service.modify_app,
    apps.RotateSecret: apps_service.rotate_secret,
    apps.RemoveApp: apps_service.remove_app,
    apps.RotateKeys: apps_service.rotate_keys,
    apps.ListOwnApps: apps_service.list_own_apps,
    apps.WithdrawApp: apps_service.withdraw_app,
    resources.ShowHost: resources_service.show_host,
    resources.ReadMetrics: metrics.read_metrics,
}
