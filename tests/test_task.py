"""Networks that train.py knows, and a new one."""

import model
import task
from checkpoint import load_model
from opts import TrainOptions
from train import train


def test_every_network_to_choose_is_a_task():
    actions = {action.dest: action for action in TrainOptions().parser._actions}
    assert set(actions["network"].choices) == set(task.TASKS)
    assert set(task.TASKS) < set(model.NETWORKS)


def test_a_new_network_is_trained_and_loaded_as_itself(brackets, tmp_path, monkeypatch):
    class Shallow(model.DeepFuse):
        name = "shallow"

    monkeypatch.setitem(model.NETWORKS, "shallow", Shallow)
    monkeypatch.setitem(task.TASKS, "shallow", task.luma_task(Shallow))
    flags = ["--folder", str(brackets), "--val_folder", str(brackets), "--epoch", "1"]
    flags += [
        "--crop_size",
        "48",
        "--batch_size",
        "2",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--quiet",
    ]
    options = TrainOptions().parse([*flags, "--det", str(tmp_path)])
    options.network = "shallow"
    train(options)
    assert type(load_model(str(tmp_path / "model" / "best.pth"))) is Shallow
