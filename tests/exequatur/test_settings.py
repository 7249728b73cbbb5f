"""A wrong setting stops the start, and every fault is said at once."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field

from exequatur.settings import Settings, SettingsError, describe


class Toy(Settings):
    """Settings of a toy."""

    env_prefix: ClassVar[str] = "TOY_"
    program: ClassVar[str] = "toy serve"

    folder: str = Field(description="where")
    workers: int = Field(default=1, gt=0, description="how many")
    names: tuple[str, ...] = Field(default=(), description="who")
    unsafe: bool = Field(default=False, description="danger")


def test_flag_beats_environment_beats_file(tmp_path):
    file = tmp_path / "toy.toml"
    file.write_text('folder = "file"\nworkers = 3\nnames = ["a"]\n')
    settings = Toy.load(["--config", str(file), "--folder", "flag"], {"TOY_FOLDER": "env", "TOY_WORKERS": "2"})
    assert (settings.folder, settings.workers, settings.names) == ("flag", 2, ("a",))
    assert Toy.load([], {"TOY_FOLDER": "x", "TOY_NAMES": "a,b"}).names == ("a", "b")
    assert Toy.load(["--folder", "x", "--unsafe"], {}).unsafe


def test_every_fault_is_reported_at_once(tmp_path):
    file = tmp_path / "toy.toml"
    file.write_text("wrokers = 3\n")
    with pytest.raises(SettingsError) as error:
        Toy.load(["--config", str(file), "--workers", "none"], {"TOY_FLODER": "x"})
    text = "\n".join(error.value.faults)
    assert "`wrokers` is not a setting" in text
    assert "`TOY_FLODER` is not a setting" in text
    assert "`folder`: field required" in text
    assert "`workers`: input should be a valid integer" in text


def test_a_file_that_is_missing_or_broken_is_a_fault(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: no such file"):
        Toy.load(["--config", str(tmp_path / "none.toml"), "--folder", "x"], {})
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(SettingsError, match="is not TOML"):
        Toy.load(["--config", str(tmp_path / "bad.toml"), "--folder", "x"], {})


def test_a_flag_that_is_none_is_said_in_one_line_with_the_verb_that_was_asked_for(capsys):
    for argv, verb, said in (
        (["--folder", "x", "--wrokers", "2"], "", "`--wrokers` is not a setting: see `toy serve --help`"),
        (["--wrokers=2"], "config", "`--wrokers=2` is not a setting: see `toy config --help`"),
        (["--workers"], "", "argument --workers: expected one argument: see `toy serve --help`"),
    ):
        with pytest.raises(SystemExit) as caught:
            Toy.load(argv, {}, verb=verb)
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"error: {said}\n"
    with pytest.raises(SystemExit):
        Toy.load(["--help"], {}, verb="config")
    assert capsys.readouterr().out.startswith("usage: toy config [SETTING]...\n")


def test_what_config_prints_is_what_config_reads(tmp_path):
    settings = Toy(folder="x", names=("a", "b"))
    (tmp_path / "toy.toml").write_text(describe(settings))
    assert Toy.load(["--config", str(tmp_path / "toy.toml")], {}) == settings


def test_a_service_named_like_a_daemon_keeps_no_daemon_from_starting():
    links = {
        "TOY_SERVICE_HOST": "10.96.0.7",
        "TOY_SERVICE_PORT": "7070",
        "TOY_SERVICE_PORT_GRPC": "7070",
        "TOY_PORT": "tcp://10.96.0.7:7070",
        "TOY_PORT_7070_TCP": "tcp://10.96.0.7:7070",
        "TOY_PORT_7070_TCP_PROTO": "tcp",
        "TOY_PORT_7070_TCP_PORT": "7070",
        "TOY_PORT_7070_TCP_ADDR": "10.96.0.7",
        "TOY_METRICS_SERVICE_HOST": "10.96.0.8",
        "TOY_METRICS_PORT_9082_TCP_ADDR": "10.96.0.8",
    }
    assert Toy.load(["--folder", "x"], links).folder == "x"
    with pytest.raises(SettingsError):
        Toy.load(["--folder", "x"], {**links, "TOY_PORTS": "7070"})


def test_no_setting_ends_as_what_kubernetes_says_of_services():
    from exequatur.settings import _SERVICE_LINK
    from injector.settings import InjectorSettings
    from ledger.settings import LedgerSettings
    from pdp.settings import PdpSettings
    from sidecar.settings import SidecarSettings

    for cls in (InjectorSettings, LedgerSettings, PdpSettings, SidecarSettings):
        assert [name for name in cls.model_fields if _SERVICE_LINK.search(f"{cls.env_prefix}{name.upper()}")] == []
