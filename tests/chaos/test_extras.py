"""What an extra brings and is not installed: one line with the command that installs it, before any work."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STORES = [
    ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "psycopg", "pip install 'hdmap_mlflow[postgresql]'"),
    ("postgresql+psycopg2://u:secret@127.0.0.1:1/d", "psycopg2", "pip install psycopg2-binary"),
    ("mysql://u:secret@127.0.0.1:1/d", "MySQLdb", "pip install mysqlclient"),
    ("mysql+pymysql://u:secret@127.0.0.1:1/d", "pymysql", "pip install pymysql"),
]
WITHOUT_RAY = [["grid", "--seeds", "0,1"], ["grid", "--ray-address", "auto"], ["tune", "padim", "--jobs", "2"]]


@pytest.mark.parametrize(("uri", "module", "way_out"), STORES, ids=[module for _, module, _ in STORES])
@pytest.mark.parametrize("command", ["train", "report", "ui"])
def test_a_database_without_its_driver_names_the_package(refused, monkeypatch, maps, command, uri, module, way_out):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    where = ["--data-root", maps] if command == "train" else []
    line = refused(command, *where, says=[module, way_out], leaves=("cache",))
    assert "secret" not in line


@pytest.mark.parametrize(("url", "module", "way_out"), STORES, ids=[module for _, module, _ in STORES])
@pytest.mark.parametrize("arguments", [["tune", "padim"], ["tune", "padim", "--status"]], ids=" ".join)
def test_a_storage_without_its_driver_names_the_package(refused, monkeypatch, maps, arguments, url, module, way_out):
    monkeypatch.setitem(sys.modules, module, None)
    line = refused(*arguments, "--data-root", maps, "--storage", url, says=[module, way_out, "change --storage"])
    assert "secret" not in line


@pytest.mark.parametrize("arguments", WITHOUT_RAY, ids=" ".join)
def test_a_grid_without_ray_names_its_extra(refused, monkeypatch, maps, arguments):
    monkeypatch.setattr("hdmap_mlflow.execution.launch.find_spec", lambda name: None)
    monkeypatch.setattr("hdmap_mlflow.execution.launch.present", lambda: True)  # which Ray shares out
    refused(*arguments, "--data-root", maps, says=["Ray", "hdmap_mlflow[grid]", "--no-ray"])


def test_a_model_without_its_package_names_its_extra(refused, monkeypatch, maps):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None)
    refused("train", "winclip", "--data-root", maps, says=["winclip", "hdmap_mlflow[winclip]"])


def test_a_plan_needs_no_ray(exit_code, monkeypatch, maps, capsys):
    monkeypatch.setattr("hdmap_mlflow.execution.launch.find_spec", lambda name: None)
    assert exit_code("grid", "--plan", "--data-root", str(maps)) == 0 and not Path("mlflow.db").exists()
    assert "Nothing was started" in capsys.readouterr().out
