"""The program that scores methods."""

import csv
import os

import numpy as np
import pytest
import torch
from conftest import write_bracket

import evaluate
import loss
import utils
from model import DeepFuse, save_checkpoint


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_bracket(tmp_path / "scenes" / name, seed=seed)
    return tmp_path / "scenes"


def test_scores(folder, tmp_path, capsys):
    torch.manual_seed(0)
    network, model = DeepFuse(), str(tmp_path / "net.pth")
    save_checkpoint(model, {"model": network.state_dict(), "network": network.settings})
    out, table = tmp_path / "out", tmp_path / "scores.csv"
    argv = ["--folder", str(folder), "--model", model, "--csv", str(table), "--save", str(out)]
    assert evaluate.main([*argv, "--quiet", "--device", "cpu"]) == 0

    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scene"] for row in rows] == ["a", "b"]
    for row in rows:
        paths = [str(folder / row["scene"] / name) for name in ("1.png", "3.png")]
        gray = [utils.to_gray(utils.read_image(path)) for path in paths]
        for method in ("average", "MergeMertens", model):
            folder_of_method = out / evaluate.folder_name(method)
            fused = utils.read_image(str(folder_of_method / f"{row['scene']}.png"))
            expected = loss.score(utils.to_gray(fused), gray)
            assert float(row[method]) == pytest.approx(expected, abs=1e-6)
    lines = capsys.readouterr().out.splitlines()
    means = {line.split()[0]: float(line.split()[1]) for line in lines[1:]}
    for method in ("average", "MergeMertens", model):
        assert means[method] == pytest.approx(
            np.mean([float(row[method]) for row in rows]), abs=1e-4
        )


def test_folder_names():
    assert evaluate.folder_name("average") == "average"
    assert evaluate.folder_name("runs/a/model/best.pth") == "runs_a_model_best"
    assert evaluate.folder_name("../b/best.pth") == "b_best"


def test_average_is_rounded():
    images = [np.full((2, 2, 3), level, np.uint8) for level in (1, 4)]
    assert (evaluate.average(images) == 2).all()  # 2.5, to even
    assert (evaluate.average([images[1], images[1]]) == 4).all()


def test_mistakes_get_one_line(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (folder / "b" / "3.png").write_bytes(b"")
    for argv, message in [
        (["--folder", str(tmp_path / "empty")], f"{tmp_path / 'empty'}: has no sub-folder"),
        (["--folder", str(tmp_path / "none")], f"{tmp_path / 'none'}: No such file"),
        (["--folder", str(folder)], f"{folder / 'b' / '3.png'}: the file is empty"),
        (["--folder", str(folder), "--model", "none.pth"], "none.pth: No such file"),
        (["--folder", str(folder), "--csv", "none/x.csv"], "none/x.csv: there is no folder none"),
    ]:
        models = [] if "--model" in argv else ["--model"]
        assert evaluate.main([*argv, *models, "--quiet"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"evaluate.py: {message}"), err
        assert err.count("\n") == 1
    assert os.listdir(tmp_path / "empty") == []
