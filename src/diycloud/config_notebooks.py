"""Settings of the notebooks: the section `notebooks` of config.yaml (docs/how-to/notebooks.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from diycloud.config_names import Account, Folder, HostName

ProfileName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,29}\Z")]
Size = Annotated[str, Meta(pattern=r"\A([0-9]+[KMGT])?\Z")]
"""Memory as people write it, with its unit; empty: no bound of its own."""
Package = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,_-]+\])?([=<>!~]=?[A-Za-z0-9.*+!_-]+)?\Z")
]
"""A requirement of pip's, a name with at most one version, never an option or an address."""


class Profile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A size of notebook that people may choose. It bounds one server; all of a user's stay within the user's limits."""

    title: Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{0,60}\Z")] = ""
    """How people read it; empty: its name."""
    cpu: Annotated[float, Meta(ge=0, le=4096)] = 0.0
    """Cores; 0 for no bound but the user's own."""
    memory: Size = ""
    """Such as `2G`; empty for no bound but the user's own."""
    kind: Literal["process", "docker"] = "process"
    """How its servers run. `docker` needs the container gate: without it the profile is not offered."""
    image: Annotated[str, Meta(pattern=r"\A([a-z0-9][a-z0-9._/:@-]{0,250})?\Z")] = ""
    """With `docker`: the image."""

    def __post_init__(self) -> None:
        if (self.kind == "docker") != bool(self.image):
            raise ValueError("image: a profile of kind docker names one, no other does")


class NotebookSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What notebooks are on this host."""

    enabled: bool = True
    """Whether `diycloud install` sets notebooks up."""
    host: HostName = ""
    """A host name of notebooks' own, such as notebooks.example.org, so that what runs in them is not on the portal's origin. It
    must lead to this host. Empty: they are at the portal's address."""
    hub_user: Account = "diycloud-hub"
    """The account the hub runs as. It may ask the agent to start and stop notebooks, nothing else."""
    sign_in: Literal["portal", "pam"] = "portal"
    """`portal`: whoever is signed in there is signed in; `pam`: the hub asks for the account's password."""
    profiles: Annotated[dict[ProfileName, Profile], Meta(max_length=32)] = {}
    """Sizes to choose from. None or one: nobody is asked. The first is the default."""
    named_servers: Annotated[int, Meta(ge=0, le=32)] = 3
    """How many servers somebody may have beside the first."""
    at_once: Annotated[int, Meta(ge=1, le=64)] = 10
    """How many servers may be starting at a time, of one person two at most; more wait their turn."""
    start_seconds: Annotated[int, Meta(ge=5, le=600)] = 60
    """A server that does not answer after so long has failed."""
    idle_minutes: Annotated[int, Meta(ge=0, le=525_600)] = 120
    """A server whose kernels and pages are not used for so long is stopped; 0 for never."""
    max_hours: Annotated[int, Meta(ge=0, le=8760)] = 0
    """A server is stopped after so long, used or not; 0 for never."""
    data_science: bool = True
    """Whether the default environment has numpy, pandas, matplotlib and scipy."""
    packages: tuple[Package, ...] = ()
    """More for the default environment: extensions of JupyterLab, libraries. `diycloud jupyter setup` installs them."""
    conda: Annotated[str, Meta(pattern=r"\A(/[A-Za-z0-9_.@+-]+)*\Z", max_length=255)] = ""
    """The program that makes environments with conda: micromamba, mamba or conda. Empty: the first that is found."""
    templates: Folder = "/etc/diycloud/notebooks"
    """A folder whose files new users get in `notebooks/`, beside the ones that come with the platform."""

    @property
    def offered(self) -> dict[str, Profile]:
        """The profiles that can be chosen, the default first: no container can be started without a gate."""
        return {name: profile for name, profile in self.profiles.items() if profile.kind == "process"}

    @property
    def own_at_once(self) -> int:
        """How many servers of one person may be starting at a time: there is room for somebody else's beside them."""
        return max(1, min(2, self.at_once - 1))
