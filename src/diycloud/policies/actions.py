"""What can be done with policies: data and permission, nothing else. How: policies/service.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from diycloud.actions.action import Action, Audited, Kind, Permission, action
from diycloud.actions.fields import Cores, Description, DiskSize, Flag, Gpu, MemorySize, PolicyName, Tasks, Username
from diycloud.policies.models import Policy, PolicyChanged, PolicyList
from diycloud.users.models import Changed

MaxCores = Annotated[Cores, Meta(extra={"help": "most cores that can be given"})]
MaxMemory = Annotated[MemorySize, Meta(extra={"help": "most memory that can be given"})]
MaxDisk = Annotated[DiskSize, Meta(extra={"help": "largest disk quota that can be given"})]
MaxTasks = Annotated[Tasks, Meta(extra={"help": "most processes that can be given"})]
MaxSessions = Annotated[
    int,
    Meta(
        ge=1, le=1000, extra={"rule": "a whole number, 1–1000", "help": "sessions of one person; the oldest gives way"}
    ),
]
SecondFactor = Annotated[Flag, Meta(extra={"help": "whoever has the policy must have a second factor"})]
MaxGpu = Annotated[Flag, Meta(extra={"help": "whether GPUs can be given"})]


@action("policy.create", needs=Permission.POLICIES, target="name", kind=Kind.NOTHING)
class CreatePolicy(Action[PolicyChanged], frozen=True):
    """Create a policy: the limits of users who get it, and the most they can be given."""

    name: PolicyName
    description: Description | None = None
    cpu: Cores = 1.0
    memory: MemorySize = 2 << 30
    disk: DiskSize = 5 << 30
    tasks: Tasks = 512
    gpu: Gpu = False
    max_cpu: MaxCores | None = None
    max_memory: MaxMemory | None = None
    max_disk: MaxDisk | None = None
    max_tasks: MaxTasks | None = None
    max_gpu: MaxGpu = True
    max_sessions: MaxSessions | None = None
    second_factor: SecondFactor = False


@action("policy.list", needs=Permission.POLICIES_READ, audited=Audited.NO, target="")
class ListPolicies(Action[PolicyList], frozen=True):
    """List policies, with how many users have each."""


@action("policy.show", needs=Permission.POLICIES_READ, audited=Audited.NO, target="name", kind=Kind.POLICY)
class ShowPolicy(Action[Policy], frozen=True):
    """Show one policy."""

    name: PolicyName


@action("policy.modify", needs=Permission.POLICIES, target="name", kind=Kind.POLICY)
class ModifyPolicy(Action[PolicyChanged], frozen=True):
    """Change a policy; what is left out stays, null clears a maximum. Limits that users have stay as they are."""

    name: PolicyName
    description: Description | UnsetType | None = UNSET
    cpu: Cores | UnsetType = UNSET
    memory: MemorySize | UnsetType = UNSET
    disk: DiskSize | UnsetType = UNSET
    tasks: Tasks | UnsetType = UNSET
    gpu: Gpu | UnsetType = UNSET
    max_cpu: MaxCores | UnsetType | None = UNSET
    max_memory: MaxMemory | UnsetType | None = UNSET
    max_disk: MaxDisk | UnsetType | None = UNSET
    max_tasks: MaxTasks | UnsetType | None = UNSET
    max_gpu: MaxGpu | UnsetType = UNSET
    max_sessions: MaxSessions | UnsetType | None = UNSET
    second_factor: SecondFactor | UnsetType = UNSET


@action("policy.remove", needs=Permission.POLICIES, target="name", kind=Kind.POLICY)
class RemovePolicy(Action[None], frozen=True):
    """Remove a policy that no user and no domain has."""

    name: PolicyName


@action("policy.apply", needs=Permission.USERS_LIMITS)
class ApplyPolicy(Action[Changed], frozen=True):
    """Give a user the limits of their policy, or of another that they have from now on; in force at once."""

    username: Username
    policy: PolicyName | UnsetType = UNSET
    force: Annotated[Flag, Meta(extra={"help": "set a memory limit below what is used now"})] = False
