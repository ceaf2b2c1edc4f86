"""Every action with the function that does it."""

from __future__ import annotations

from typing import Any

from diycloud.actions.action import Action
from diycloud.actions.dispatcher import Handler
from diycloud.auth import actions as auth
from diycloud.auth import history
from diycloud.auth import service as auth_service
from diycloud.resources import actions as resources
from diycloud.resources import service as resources_service
from diycloud.users import actions as users
from diycloud.users import importing, life, service, usage

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
    users.SetPassword: service.set_password,
    users.ImportUsers: importing.import_users,
    users.ReadUsage: usage.read_usage,
    auth.ChangePassword: auth_service.change_password,
    auth.SignOut: auth_service.sign_out,
    auth.ListAudit: history.list_audit,
    resources.ShowHost: resources_service.show_host,
}
