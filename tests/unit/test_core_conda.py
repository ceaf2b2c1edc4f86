"""Shared environments that conda makes, on hosts in memory: what is asked of conda, what is offered, and what is refused."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from diycloud.cli.main import build_parser
from diycloud.config import Paths, parse
from diycloud.core import conda, conda_environments, conda_kernels, jupyter, kernels
from diycloud.errors import Conflict, DiyCloudError, HostError, InvalidInput, NotFound, Unsupported
from diycloud.system import PATH, Result
from diycloud.system.dry_run import DryRun
from diycloud.system.fake import Fake
from diycloud.system.recording import Recording

PATHS = Paths("/p")
PROGRAM = Path("/opt/conda/bin/conda")
ENVIRONMENT = "/p/opt/diycloud/jupyter/shared/envs/stats"
KERNELS = PATHS.kernels / "share/jupyter/kernels"
R = {
    "argv": ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
    "display_name": "R", "language": "R",
}  # fmt: skip


class Host(Fake):
    """A host whose conda makes what it is asked for: a note for each package, and what `brings` has of it.

    answer: what it ends with instead, after what `leaves` names was written.
    """

    def __init__(self, program: Path = PROGRAM) -> None:
        super().__init__({str(program): "", "/opt/conda/conda-meta/history": "", "/bin/R": ""})
        self.brings: dict[str, dict[str, str]] = {
            "ipykernel": {"bin/python": ""},
            "r-irkernel": {"bin/R": "", "share/jupyter/kernels/ir/kernel.json": json.dumps(R)},
        }
        self.answer = Result(0, "", "")
        self.leaves = ""
        self.environ: dict[str, str] = {}

    def run(self, argv, *, input=None, ok=(0,), timeout=120, env=None, user=None, cwd=None):
        self.environ = dict(env or {})
        return super().run(argv, input=input, ok=ok, timeout=timeout, env=env, user=user, cwd=cwd)

    def _execute(self, argv: Sequence[str], input: str | None) -> Result:
        self.ran.append(shlex.join(argv))
        if argv[0] == "install":
            self.write(argv[4], self.read(argv[3]) or "")
        if argv[0] in ("chown", "chmod", "install", "sync"):
            return Result(0, "", "")
        assert Path(argv[0]).name in conda.PROGRAMS and argv[2:4] == ["--yes", "--quiet"], argv
        prefix = argv[argv.index("--prefix") + 1]
        if not self.answer.ok:
            if self.leaves:
                self.put(f"{prefix}/{self.leaves}")
            return self.answer
        assert self.exists(prefix) == (argv[1] == "install"), "mamba takes no folder that is there"
        self.put(f"{prefix}/conda-meta/history")
        words = [word for before, word in pairwise(argv[3:]) if before not in ("--prefix", "--channel")]
        for spec in (word for word in words if not word.startswith("--")):
            name, _, version = spec.replace(">", "").partition("=")
            for old in self.list_dir(f"{prefix}/conda-meta"):
                if old.startswith(f"{name}-"):
                    self.remove(f"{prefix}/conda-meta/{old}")
            self.put(f"{prefix}/conda-meta/{name}-{version or '9.9'}-py311_0.json")
            for path, text in self.brings.get(name, {}).items():
                self.put(f"{prefix}/{path}", text)
        return self.answer

    def put(self, path: str, text: str = "") -> None:
        self.files.update(Fake({path: text}).files | self.files)
        self.write(path, text)

    @property
    def asked(self) -> list[str]:
        return [line for line in self.ran if not line.startswith(("ch", "install", "sync"))]

    def create(self, *specs: str, channels: tuple[str, ...] = (), name: str = "stats") -> kernels.Kernel:
        return kernels.create_with_conda(self, PATHS, name, specs, channels=channels, program=PROGRAM)

    def install(self, *specs: str, channels: tuple[str, ...] = ()) -> kernels.Kernel:
        return kernels.install_with_conda(self, PATHS, "stats", specs, channels=channels, program=PROGRAM)

    def kernel(self) -> kernels.Kernel:
        (found,) = kernels.list_kernels(self, PATHS)
        return found

    def spec(self, name: str) -> dict:
        return json.loads(self.read(KERNELS / name / "kernel.json") or "{}")


# -- what conda is asked


def test_it_is_asked_once_and_with_all_of_it():
    host = Host()
    made = host.create("numpy=2.1", "pandas", channels=("conda-forge", "/srv/channel"))
    assert host.asked == [
        f"{PROGRAM} create --yes --quiet --prefix {ENVIRONMENT} --override-channels --channel conda-forge "
        "--channel /srv/channel numpy=2.1 pandas 'ipykernel>=6'"
    ]
    assert made.kind == "conda" and made.problem == "" and made.kernels == ("stats",)
    assert made.packages == ("ipykernel 6", "numpy 2.1", "pandas 9.9")
    host.install("pandas=3")
    host.install("polars", channels=("other",))
    assert host.asked[1:] == [
        f"{PROGRAM} install --yes --quiet --prefix {ENVIRONMENT} --override-channels --channel conda-forge "
        "--channel /srv/channel pandas=3",
        f"{PROGRAM} install --yes --quiet --prefix {ENVIRONMENT} --override-channels --channel other polars",
    ]
    assert "pandas 3" in host.kernel().packages


def test_without_channels_its_own_settings_say_where_packages_come_from():
    host = Host()
    host.create("numpy")
    assert "channel" not in host.asked[0]


def test_what_steers_it_is_fixed(monkeypatch):
    for name in ("CONDARC", "CONDA_CHANNELS", "MAMBARC", "MAMBA_ROOT_PREFIX", "CONDA_PREFIX", "PYTHONPATH", "HOME"):
        monkeypatch.setenv(name, "/home/eve")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/own.pem")
    host = Host()
    host.create("numpy")
    ran = host.environ or {}
    host.ran.clear()
    conda.run(host, PATHS, PROGRAM, "install", Path(ENVIRONMENT), ["numpy"], [])
    ran = host.environ
    assert "/home/eve" not in ran.values() and "CONDARC" not in ran
    shared = "/p/opt/diycloud/jupyter/shared"
    assert ran["HOME"] == f"{shared}/conda/home" and ran["CONDA_PKGS_DIRS"] == f"{shared}/conda/packages"
    assert ran["CONDA_ENVS_DIRS"] == f"{shared}/envs" and ran["CONDA_REPORT_ERRORS"] == "false"
    assert ran["https_proxy"] == "http://proxy:3128" and ran["REQUESTS_CA_BUNDLE"] == "/etc/ssl/own.pem"
    assert "MAMBA_ROOT_PREFIX" not in ran, "it has an installation, whose .condarc holds"
    assert [host.files[f"{shared}/conda/{name}"].mode for name in ("home", "packages", "root")] == [0o700] * 3
    conda.run(host, PATHS, Path("/usr/local/bin/micromamba"), "install", Path(ENVIRONMENT), ["numpy"], [])
    assert host.environ["MAMBA_ROOT_PREFIX"] == f"{shared}/conda/root", "else it makes one in HOME, and warns"


def test_all_of_it_is_made_everybodys_to_read_before_it_is_offered():
    host = Host()
    effects: list[str] = []
    recording = Recording(host, before=effects.append)
    kernels.create_with_conda(recording, PATHS, "stats", ("numpy",), channels=(), program=PROGRAM)
    chown, chmod = (next(i for i, effect in enumerate(effects) if word in effect) for word in ("chown", "chmod"))
    offered = next(i for i, effect in enumerate(effects) if "kernel.json" in effect)
    assert chown < chmod < offered
    assert host.ran[1:] == [
        f"chown -hR 0:0 {ENVIRONMENT}", f"chmod -R u+rwX,go+rX,go-w,u-s,g-s {ENVIRONMENT}", f"sync -f {ENVIRONMENT}",
    ]  # fmt: skip


# -- what is offered


def test_a_python_kernel_is_started_as_in_an_activated_environment():
    host = Host()
    host.create("numpy")
    assert host.spec("stats") == {
        "argv": [f"{ENVIRONMENT}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "stats (shared)", "language": "python",
        "env": {"PATH": f"{ENVIRONMENT}/bin:${{PATH}}", "CONDA_PREFIX": ENVIRONMENT},
        "metadata": {"debugger": False},
    }  # fmt: skip


def test_kernels_of_other_languages_are_offered_under_names_of_their_own():
    host = Host()
    host.put(f"{ENVIRONMENT}x", "")
    made = host.create("r-irkernel")
    assert host.asked[0].endswith(" r-irkernel"), "with a kernel named, Python's is not added"
    assert made.kernels == ("stats.ir",) and not host.exists(KERNELS / "stats")
    assert host.spec("stats.ir")["argv"] == [f"{ENVIRONMENT}/bin/R", *R["argv"][1:]]
    assert host.spec("stats.ir")["display_name"] == "R (stats, shared)"
    assert host.install("ipykernel").kernels == ("stats", "stats.ir"), "a notebook in R stays one"


def test_what_a_package_says_of_its_kernel_is_kept_as_far_as_it_can_be():
    host = Host()
    host.brings["xeus-cpp"] = {
        "bin/xcpp": "",
        "share/jupyter/kernels/xcpp/kernel.json": json.dumps(
            {
                "argv": [f"{ENVIRONMENT}/bin/xcpp", "-f", "{connection_file}", "{resource_dir}/x"],
                "env": {"A": "b", "PATH": "/own", "N": 1},
                "display_name": "C++",
                "language": "cpp",
                "interrupt_mode": "message",
                "metadata": {"debugger": True, "kernel_provisioner": {}, "k": 1},
            }
        ),
        "share/jupyter/kernels/xcpp/logo-64x64.png": "a picture",
        "share/jupyter/kernels/xcpp/kernel.js": "alert(1)",
        "etc/conda/activate.d/xcpp.sh": "",
        "etc/conda/env_vars.d/xcpp.json": '{"A": "c", "D": "e"}',
        "etc/conda/env_vars.d/broken.json": "{",
    }
    host.create("xeus-cpp")
    spec, source = host.spec("stats.xcpp"), f"{ENVIRONMENT}/share/jupyter/kernels/xcpp"
    assert spec["argv"][:2] == ["/bin/bash", "-c"] and 'exec "$@"' in spec["argv"][2]
    assert spec["argv"][4:] == [f"{ENVIRONMENT}/bin/xcpp", "-f", "{connection_file}", f"{source}/x"]
    assert spec["env"] == {"A": "b", "D": "e", "PATH": "/own", "CONDA_PREFIX": ENVIRONMENT}
    assert spec["interrupt_mode"] == "message" and spec["metadata"] == {"debugger": False, "k": 1}
    assert host.list_dir(KERNELS / "stats.xcpp") == ["kernel.json", "logo-64x64.png"]
    assert host.read(KERNELS / "stats.xcpp/logo-64x64.png") == "a picture"


@pytest.mark.parametrize(
    "spec",
    [
        "", "{", "[]", "{}", '{"argv": []}', '{"argv": "R"}', '{"argv": [1]}', '{"argv": ["not-there"]}',
        '{"argv": ["../../../../../bin/R"]}', '{"argv": ["/not/there"]}', '{"argv": ["R\\u0000"]}',
        '{"argv": ["R", "-m", "ipykernel_launcher"]}',
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_not_offered(spec):
    host = Host()
    host.brings["odd-kernel"] = {"bin/R": "", "share/jupyter/kernels/odd/kernel.json": spec}
    with pytest.raises(HostError, match="neither ipykernel nor another kernel") as raised:
        host.create("odd-kernel")
    assert "env install stats ipykernel" in raised.value.hint
    assert host.list_dir(KERNELS) == [] and "no notebook can use it" in host.kernel().problem
    with pytest.raises(Conflict):
        host.create("numpy")
    assert host.install("ipykernel").problem == ""


def test_a_kernel_whose_folder_has_no_kernels_name_is_not_offered():
    host = Host()
    host.brings["odd-kernel"] = {"bin/R": ""} | {
        f"share/jupyter/kernels/{name}/kernel.json": json.dumps(R) for name in (".hidden", "a b", "x" * 61, "good")
    }
    assert host.create("odd-kernel").kernels == ("stats.good",)


def test_what_is_gone_from_an_environment_is_offered_no_more():
    host = Host()
    host.create("r-irkernel", "ipykernel")
    host.remove(f"{ENVIRONMENT}/share/jupyter/kernels/ir/kernel.json")
    assert host.install("numpy").kernels == ("stats",)
    assert host.list_dir(KERNELS) == ["stats"]


def test_environments_with_similar_names_do_not_touch_each_others_kernels():
    host = Host()
    host.create("r-irkernel", name="stats")
    host.create("r-irkernel", name="stats-ir")
    kernels.remove(host, PATHS, "stats")
    assert host.list_dir(KERNELS) == ["stats-ir.ir"] and host.kernel().name == "stats-ir"


def test_every_kernel_built_on_ipythons_is_kept_from_listening():
    host = Host()
    host.create("numpy")
    link = host.files[f"{ENVIRONMENT}/etc/ipython/ipython_kernel_config.py"].target or ""
    assert link.endswith("/launcher/kernel_config.py") and Path(link).exists()


# -- its life


def test_what_was_begun_is_listed_and_made_from_the_beginning():
    host = Host()
    host.answer = Result(1, "", "Solving environment: failed\n\nPackagesNotFoundError: nunpy")
    with pytest.raises(HostError, match="status 1: Solving environment: failed\n\nPackagesNotFoundError: nunpy"):
        host.create("nunpy")
    assert "env create` again" in host.kernel().problem and host.kernel().kernels == ()
    host.answer, host.leaves = Result(-9, "", ""), "bin/half"
    with pytest.raises(HostError):
        host.create("numpy")
    assert host.exists(f"{ENVIRONMENT}/bin/half")
    host.answer = Result(0, "", "")
    assert "numpy 9.9" in host.create("numpy").packages
    assert not host.exists(f"{ENVIRONMENT}/bin/half") and "nunpy" not in host.asked[-1]


def test_its_last_words_are_shown_from_wherever_it_says_them():
    host = Host()
    host.answer = Result(1, "\n".join(f"line {number}" for number in range(30)), "")
    with pytest.raises(HostError) as raised:
        host.create("numpy")
    assert "line 29" in raised.value.message and "line 1\n" not in raised.value.message
    host.answer = Result(1, "", "")
    with pytest.raises(HostError, match="it printed nothing"):
        host.create("numpy")


def test_what_conda_refuses_changes_nothing():
    host = Host()
    host.create("numpy=2")
    host.answer = Result(1, "", "UnsatisfiableError")
    with pytest.raises(HostError, match="UnsatisfiableError"):
        host.install("numpy=9", channels=("other",))
    assert host.kernel().problem == "" and conda_environments.read_note(host, PATHS, "stats").specs[0] == "numpy=2"
    assert conda_environments.read_note(host, PATHS, "stats").channels == ()


@pytest.mark.parametrize(("status", "leaves"), [(-9, ""), (-9, "bin/half"), (1, "conda-meta/half-1-0.json"), (137, "")])
def test_a_change_that_was_cut_off_is_told_of_and_the_next_makes_it_whole(status, leaves):
    host = Host()
    host.create("numpy=2")
    host.answer, host.leaves = Result(status, "", "no space left on device"), leaves
    with pytest.raises(HostError):
        host.install("pandas")
    assert "cut off" in host.kernel().problem and "env install` again" in host.kernel().problem
    assert host.kernel().kernels == ("stats",), "what runs in it, and what still starts, may go on"
    host.answer = Result(0, "", "")
    made = host.install("pandas")
    assert " create --yes" in host.asked[-1] and host.asked[-1].count("numpy=2") == 1
    assert made.problem == "" and {"numpy 2", "pandas 9.9"} <= {*made.packages}
    assert not any("half" in path for path in host.files)


def test_killed_before_any_effect_the_next_run_makes_it_right():
    class Killed(BaseException):
        pass

    whole = Host()
    effects: list[str] = []
    whole.create("numpy", "r-irkernel", "ipykernel")
    kernels.install_with_conda(
        Recording(whole, before=effects.append), PATHS, "stats", ("pandas",), channels=(), program=PROGRAM
    )
    wanted = {path: file for path, file in whole.files.items() if path.startswith(str(PATHS.kernels))}
    for verb in ("create", "install"):
        for number in range(40):
            host, count = Host(), iter(range(number))

            def die(_: str, count=count) -> None:
                if next(count, None) is None:
                    raise Killed

            def act(system, verb=verb) -> None:
                if verb == "create":
                    every = ("numpy", "r-irkernel", "ipykernel", "pandas")
                    kernels.create_with_conda(system, PATHS, "stats", every, channels=(), program=PROGRAM)
                else:
                    kernels.install_with_conda(system, PATHS, "stats", ("pandas",), channels=(), program=PROGRAM)

            if verb == "install":
                host.create("numpy", "r-irkernel", "ipykernel")
            try:
                act(Recording(host, before=die))
            except Killed:
                listed = kernels.list_kernels(host, PATHS)
                again = verb if not listed or listed[0].problem else ""
                assert all(host.spec(name) for name in (listed[0].kernels if listed else ())), (
                    "what is offered is whole"
                )
                if again:
                    act(host)
            else:
                break
            if verb == "create" or again:
                now = {path: file for path, file in host.files.items() if path.startswith(str(PATHS.kernels))}
                assert now == wanted, f"{verb}, killed before effect {number}"
        assert number > 3


def test_removed_is_all_of_it_and_its_kernels_first():
    host = Host()
    host.create("r-irkernel", "ipykernel")
    effects: list[str] = []
    kernels.remove(Recording(host, before=effects.append), PATHS, "stats")
    assert ["kernels/stats" in effect for effect in effects[:3]] == [True, True, False]
    assert not [path for path in host.files if "stats" in path]
    with pytest.raises(NotFound):
        kernels.remove(host, PATHS, "stats")


def test_a_conda_that_its_caller_left_behind_is_not_worked_against():
    host = Host()
    host.create("numpy")
    host.put(
        "/proc/4711/cmdline", f"/opt/conda/bin/python\0{PROGRAM}\0install\0--yes\0--prefix\0{ENVIRONMENT}\0numpy\0"
    )
    host.put("/proc/4712/cmdline", f"tail\0-f\0{ENVIRONMENT}\0")
    before = dict(host.files)
    for act in (lambda: host.install("pandas"), lambda: kernels.remove(host, PATHS, "stats")):
        with pytest.raises(Conflict, match="process 4711"):
            act()
    assert host.files == before
    host.remove_tree("/proc/4711")
    host.install("pandas")


def test_what_failed_at_once_can_be_removed():
    host = Host()
    host.answer = Result(1, "", "no")
    with pytest.raises(HostError):
        host.create("numpy")
    kernels.remove(host, PATHS, "stats")
    assert kernels.list_kernels(host, PATHS) == []


def test_setup_leaves_them_alone():
    host = Host()
    host.create("numpy")
    host.ran.clear()
    assert kernels.refresh(host, PATHS) == [] and host.ran == []


@pytest.mark.parametrize("note", ["", "{", "[]", '{"specs": 1}', '{"whole": "yes"}', "\udcff"])
def test_a_lost_or_damaged_note_loses_no_environment(note):
    host = Host()
    host.create("numpy")
    host.put(f"{PATHS.kernels}/conda/stats.json", note)
    assert host.kernel().problem == "" and host.kernel().kind == "conda"
    host.answer = Result(-9, "", "")
    with pytest.raises(HostError):
        host.install("pandas")
    host.answer = Result(0, "", "")
    assert {"numpy 9.9", "pandas 9.9"} <= {*host.install("pandas").packages}, "it is made again with what was in it"


def test_a_folder_that_somebody_took_away_is_told_of():
    host = Host()
    host.create("numpy")
    host.remove_tree(ENVIRONMENT)
    assert "its folder is gone" in host.kernel().problem


def test_a_dry_run_says_what_would_be_run():
    said: list[str] = []
    host = Host()
    host.put(f"{ENVIRONMENT}/conda-meta/history")
    conda.run(DryRun(host, said.append), PATHS, PROGRAM, "install", Path(ENVIRONMENT), ["numpy"], ["a"])
    assert any(f"{PROGRAM} install --yes --quiet --prefix {ENVIRONMENT}" in line for line in said)


# -- two kinds


def test_an_environment_is_of_one_kind():
    host = Host()
    host.put(f"{PATHS.kernels}/envs/torch/pyvenv.cfg")
    with pytest.raises(Conflict, match="filled by pip") as raised:
        host.create("numpy", name="torch")
    assert "env remove torch" in raised.value.hint
    host.create("numpy")
    for act in (
        lambda: kernels.create(host, PATHS, "stats", ("numpy",)),
        lambda: kernels.install(host, PATHS, "stats", ("numpy",)),
    ):
        with pytest.raises(Conflict, match="filled by conda"):
            act()
    with pytest.raises(Conflict, match="already"):
        host.create("numpy")
    with pytest.raises(Conflict, match="filled by pip"):
        kernels.install_with_conda(host, PATHS, "torch", ("numpy",), channels=(), program=PROGRAM)
    assert [found.kind for found in kernels.list_kernels(host, PATHS)] == ["conda", "pip"]


def test_one_that_conda_only_began_is_condas():
    host = Host()
    host.answer = Result(1, "", "no")
    with pytest.raises(HostError):
        host.create("numpy")
    with pytest.raises(Conflict, match="filled by conda"):
        kernels.create(host, PATHS, "stats", ("numpy",))


def test_options_of_the_other_kind_are_refused():
    jupyter._check_options("pip", sources=True, channels=())
    jupyter._check_options("conda", sources=False, channels=("a",))
    with pytest.raises(InvalidInput, match="--sources"):
        jupyter._check_options("conda", sources=True, channels=())
    with pytest.raises(InvalidInput, match="--channel"):
        jupyter._check_options("pip", sources=False, channels=("a",))


# -- bad input

WORDS = json.loads((Path(__file__).parent / "data/conda_words.json").read_text())


@pytest.mark.parametrize("spec", WORDS["specs"]["good"])
def test_what_is_a_package_of_condas(spec):
    conda.check_specs([spec])
    assert conda.name_of(spec) in ("numpy", "_libgcc_mutex", "r-base", "python", "pytorch")


@pytest.mark.parametrize("spec", WORDS["specs"]["bad"])
def test_what_is_no_package_of_condas(spec):
    host = Host()
    with pytest.raises(InvalidInput, match="is no package of conda's"):
        host.create("numpy", spec)
    assert host.ran == [] and kernels.list_kernels(host, PATHS) == []
    host.create("numpy")
    host.ran.clear()
    with pytest.raises(InvalidInput):
        host.install(spec)
    assert host.ran == [] and host.kernel().problem == ""


@pytest.mark.parametrize("channel", WORDS["channels"]["good"])
def test_what_is_a_channel(channel):
    conda.check_channels([channel])


@pytest.mark.parametrize("channel", WORDS["channels"]["bad"])
def test_what_is_no_channel(channel):
    host = Host()
    with pytest.raises(InvalidInput) as raised:
        host.create("numpy", channels=("conda-forge", channel))
    assert "secret" not in raised.value.message and "tk-123" not in raised.value.message
    assert host.ran == []


def test_too_many_are_refused():
    with pytest.raises(InvalidInput, match="501 packages are too many"):
        conda.check_specs([f"a{number}" for number in range(501)])
    with pytest.raises(InvalidInput, match="21 channels are too many"):
        conda.check_channels([f"a{number}" for number in range(21)])


@pytest.mark.parametrize("name", ["base", "root", "", "python3", "../x", "A", "a/b", "a.b", "-a", "a\n", "x" * 41])
def test_what_is_no_name(name):
    host = Host()
    with pytest.raises(InvalidInput):
        host.create("numpy", name=name)
    assert host.ran == []


def test_the_later_specification_of_a_package_holds():
    assert conda.merge(("numpy=1", "pandas"), ("NumPy>=2", "conda-forge::pandas=3")) == (
        "NumPy>=2",
        "conda-forge::pandas=3",
    )


@pytest.mark.parametrize(
    ("specs", "added"),
    [
        (("numpy",), True), (("linux-kernel-headers",), True), (("ipykernel=7",), False), (("r-irkernel",), False),
        (("bash_kernel",), False), (("xeus-cpp",), False), (("r-essentials",), False), ((), True),
    ],
)  # fmt: skip
def test_pythons_kernel_is_added_where_no_kernel_is_named(specs, added):
    assert ("ipykernel>=6" in conda_environments._with_kernel(specs)) is added


# -- the program


def trusting(monkeypatch, weak: str = "") -> None:
    monkeypatch.setattr(conda, "find_weakness", lambda program: weak)  # real files: tests/host/test_conda.py


def test_the_first_that_is_there_is_taken(monkeypatch):
    trusting(monkeypatch)
    places = [f"/opt/{name}" for name in ("conda/bin/conda", "conda/bin/mamba", "miniforge3/bin/micromamba")]
    host = Fake(dict.fromkeys(places, ""))
    assert conda.find_program(host, "") == Path("/opt/conda/bin/mamba")
    host.files.update(Fake({f"{PATH.split(':')[1]}/conda": ""}).files)
    assert conda.find_program(host, "") == Path("/usr/local/bin/conda")
    assert conda.find_program(host, "/opt/miniforge3/bin/micromamba") == Path("/opt/miniforge3/bin/micromamba")


@pytest.mark.parametrize(
    "value", ["conda", "./conda", "~/conda", "/opt/a b", "/opt/conda\\n", "/opt//conda", "[]", "1"]
)
def test_the_setting_is_a_whole_path(value):
    text = "notebooks:\n  conda: {}\n"
    assert parse(text.format("/opt/conda/bin/conda"), Path("c"), {}).notebooks.conda == "/opt/conda/bin/conda"
    with pytest.raises(InvalidInput, match=r"line 2: notebooks\.conda"):
        parse(text.format(f'"{value}"' if value[0] not in "[1" else value), Path("c"), {})


def test_without_one_it_says_what_to_do():
    with pytest.raises(Unsupported, match="There is no conda on this host") as raised:
        conda.find_program(Fake(), "")
    assert "config set notebooks.conda" in raised.value.hint and "as root" in raised.value.hint
    with pytest.raises(Unsupported, match="no /srv/conda here"):
        conda.find_program(Fake({"/opt/conda/bin/conda": ""}), "/srv/conda")


def test_one_that_others_could_change_is_not_passed_over_for_the_next(monkeypatch):
    trusting(monkeypatch, "/opt/conda belongs to number 1000")
    host = Fake({"/opt/conda/bin/conda": "", "/opt/miniconda3/bin/conda": ""})
    with pytest.raises(HostError, match="/opt/conda belongs to number 1000"):
        conda.find_program(host, "")


# -- the command line


@pytest.mark.parametrize(
    "words",
    [
        "create stats --conda --channel a --channel b numpy r-base>=4",
        "create --conda --channel a --channel b stats numpy r-base>=4",
        "create stats numpy r-base>=4 --channel a --channel b --conda",
        "create --conda stats numpy --channel a r-base>=4 --channel b",
    ],
)
def test_options_may_stand_anywhere(words):
    given = build_parser("jupyter", "env").parse_args(["jupyter", "env", *words.split()])
    assert (given.name, given.packages) == ("stats", ["numpy", "r-base>=4"])
    assert given.conda and given.channel == ["a", "b"] and not given.sources


def test_the_help_says_whose_code_runs(capsys):
    for verb in ("create", "install"):
        with pytest.raises(SystemExit):
            build_parser("jupyter", "env").parse_args(["jupyter", "env", verb, "--help"])
        assert "as root" in capsys.readouterr().out


def test_the_list_shows_what_fills_them(monkeypatch, capsys):
    from diycloud.cli import jupyter as cli

    host = Host()
    host.create("numpy")
    monkeypatch.setattr(jupyter, "list_envs", lambda paths: kernels.list_kernels(host, PATHS))
    cli.run(argparse.Namespace(verb="env", env_verb="list", prefix="/p", json=False))
    assert "stats" in (said := capsys.readouterr().out) and "conda" in said and "2 packages" in said


def test_an_error_of_conda_has_the_hosts_code():
    assert issubclass(conda.Refused, DiyCloudError) and conda.Refused("x").code == "host-error"


def test_no_kernel_of_a_package_is_taken_for_another_environments():
    assert conda_kernels.list_offered(Fake({f"{KERNELS}/a.b/kernel.json": "{}"}), KERNELS, "a.b") == ()


def test_what_setup_makes_is_everybodys_to_read_whatever_roots_umask_is(monkeypatch, tmp_path):
    seen: list[int] = []

    def install(*_: object) -> int:
        seen.append(os.umask(0o077))
        return 0

    monkeypatch.setattr(jupyter, "need_root", lambda: None)
    monkeypatch.setattr(jupyter, "install", install)
    paths = Paths(str(tmp_path))
    paths.state.mkdir(parents=True)
    before = os.umask(0o077)
    try:
        jupyter.setup(paths, print)
        assert seen == [0o022] and os.umask(0o077) == 0o077, "and as it was afterwards"
    finally:
        os.umask(before)
