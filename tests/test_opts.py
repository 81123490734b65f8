"""Settings of the process that runs a script."""

import argparse
import os

import pytest

import opts


def test_a_missing_package_gets_one_line(capsys):
    def work(_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    def mistake(_):
        import torsh  # noqa: F401

    assert opts.run("inference.py", work, argparse.Namespace()) == 2
    expected = "inference.py: needs torch: pip install -r requirements.txt\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(ModuleNotFoundError, match="torsh"):
        opts.run("inference.py", mistake, argparse.Namespace())


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_a_users_own_setting_of_openmp_is_kept(monkeypatch, own):
    monkeypatch.setattr(os, "environ", {})
    opts.limit_spinning()
    assert os.environ == {"GOMP_SPINCOUNT": str(opts.SPINS)}
    monkeypatch.setattr(os, "environ", dict(own))
    opts.limit_spinning()
    assert os.environ == own
