import json
import warnings

import pytest
import torch

from components.errors import CheckpointError
from components.training.checkpoint import KEEP, Checkpoints, read_tensors, weights_sha256, write_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "half": torch.randn(2).bfloat16(), "scalar": torch.tensor(2.5)}
    path = write_tensors(tmp_path / "x.safetensors", tensors, {"step": 3, "nan": float("nan"), "list": [1, 2]})
    back = read_tensors(path)
    assert back.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype
    assert back.values["step"] == 3
    assert back.values["list"] == [1, 2]
    assert back.values["nan"] != back.values["nan"]


def test_tied_weights_are_stored_once_and_come_back_under_both_names(tmp_path):
    weight = torch.randn(100, 100)
    path = write_tensors(tmp_path / "x.safetensors", {"in": weight, "out": weight, "copy": weight.clone()}, {})
    assert path.stat().st_size < 2.5 * weight.numel() * 4
    back = read_tensors(path).tensors
    assert torch.equal(back["out"], weight)
    assert torch.equal(back["copy"], weight)


def test_views_of_one_storage_keep_their_own_values(tmp_path):
    base = torch.arange(6.0)
    back = read_tensors(
        write_tensors(tmp_path / "x.safetensors", {"head": base[:3], "tail": base[3:], "turned": base.view(2, 3).T}, {})
    ).tensors
    assert back["head"].tolist() == [0, 1, 2]
    assert back["tail"].tolist() == [3, 4, 5]
    assert back["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_newest_valid_checkpoint_is_found_and_a_damaged_one_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, {"w": torch.tensor([1.0])}, {"n": 1})
    newest = checkpoints.save(20, {"w": torch.tensor([2.0])}, {"n": 2})
    assert checkpoints.newest().values == {"n": 2, "step": 20}
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match=r"step-00000020.* is passed over: .* is damaged"):
        found = checkpoints.newest()
    assert found.values["step"] == 10
    assert found.tensors["w"].tolist() == [1.0]


@pytest.mark.parametrize("length", [0, 1, 7, 100])
def test_a_torn_checkpoint_is_passed_over(tmp_path, length):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(5, {"w": torch.zeros(10)}, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoints.newest() is None


def test_a_checkpoint_whose_best_weights_are_missing_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"w": torch.zeros(1)}, {"best_file": None})
    best = checkpoints.save_best(2, {"w": torch.ones(1)})
    checkpoints.save(3, {"w": torch.zeros(1)}, {"best_file": best})
    assert checkpoints.newest().tensors["best/w"].tolist() == [1.0]
    (tmp_path / best).unlink()
    with pytest.warns(UserWarning, match="passed over"):
        assert checkpoints.newest().values["step"] == 1


def test_only_what_is_needed_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 8):
        best = checkpoints.save_best(step, {"w": torch.tensor([float(step)])})
        checkpoints.save(step, {"w": torch.zeros(1)}, {"best_file": best})
    kinds = [name.split("-")[0] for name in names(tmp_path)]
    assert kinds.count("step") == KEEP
    assert kinds.count("best") == KEEP
    checkpoints.clear()
    assert names(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("components.training.checkpoint.os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        Checkpoints(tmp_path).save(1, {"w": torch.zeros(1)}, {})
    assert names(tmp_path) == []


def test_nothing_there_is_no_checkpoint(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Checkpoints(tmp_path / "none").newest() is None


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "evil.safetensors"
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(path)


def test_the_header_is_json_that_anyone_can_read(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", {"w": torch.zeros(1)}, {"step": 1})
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["json"])["values"] == {"step": 1}


def test_the_hash_of_weights_sees_every_bit_and_no_order():
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int64)}
    same = {"b": weights["b"].clone(), "a": weights["a"].clone()}
    assert weights_sha256(weights) == weights_sha256(same)
    same["a"][0] = torch.nextafter(same["a"][0], torch.tensor(2.0))
    assert weights_sha256(weights) != weights_sha256(same)
    assert weights_sha256({"a": torch.zeros(2)}) != weights_sha256({"a": torch.zeros(1, 2)})
    assert weights_sha256({"a": torch.zeros(2)}) != weights_sha256({"a": torch.zeros(1, dtype=torch.float64)})
