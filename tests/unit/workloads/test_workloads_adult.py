"""Adult: its coding, its objective, and where it comes from. No network here: made-up lines in the same format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.errors import DataError, UserError, WorkloadError
from workloads import CheckedWorkload, adult, validate_workload
from workloads.adult import Adult
from workloads.binary_coding import TEST_FILE, TRAIN_FILE, adult_set, breast_cancer_set, quintile_edges
from workloads.cache import sha256_hex
from workloads.sources import Archive, CacheSource, Files, Source, SourceFailed

CPU = torch.device("cpu")


def line(i: int, *, work: str = "Private", gain: int = 0, rich: str = "<=50K") -> str:
    person = f"{20 + i}, {work}, {1000 * i}, HS-grad, {i % 16}, Never-married, Sales, Own-child, White, Male"
    return f"{person}, {gain}, 0, {i}, Cuba, {rich}"


@pytest.fixture
def lines() -> Files:
    """Ten training rows in two kinds of work, one missing; four test rows, with what UCI's file has around them."""
    works = ["Private", "State-gov", "?", *["Private"] * 7]
    train = [line(i, work=works[i], gain=5 * (i == 9), rich=">50K" if i > 6 else "<=50K") for i in range(10)]
    test = [
        "|1x3 Cross validator",
        *(line(i, work="Never-seen", rich=">50K." if i > 2 else "<=50K.") for i in range(4)),
        "",
    ]
    return {TRAIN_FILE: ("\n".join(train) + "\n\n").encode(), TEST_FILE: ("\n".join(test) + "\n").encode()}


def test_numbers_become_quintiles_and_categories_one_hot(lines: Files) -> None:
    table = adult_set(lines, "a test")
    numbers, gains, one_hot = 4 * 5, 2 * 2, 2 + 1 * 7
    assert table.train_features.shape == (10, numbers + gains + one_hot)
    assert table.train_features[:, :5].tolist() == [[int(i // 2 == fifth) for fifth in range(5)] for i in range(10)]
    assert table.train_features[:, 5:7].tolist() == [[1, 0], [0, 1], [0, 0], *[[1, 0]] * 7]
    assert table.train_features.sum(axis=1).tolist() == [14, 14, 13, *[14] * 7]
    assert table.train_labels.tolist() == [0] * 7 + [1] * 3


def test_the_test_part_is_coded_by_the_training_part(lines: Files) -> None:
    """Its own quintiles would leak, and a category that training never had must not shift the columns."""
    table = adult_set(lines, "a test")
    assert table.test_features[:, :5].tolist() == [[1, 0, 0, 0, 0]] * 2 + [[0, 1, 0, 0, 0]] * 2
    assert not table.test_features[:, 5:7].any()
    assert table.test_labels.tolist() == [0, 0, 0, 1]


def test_a_line_cut_short_is_named(lines: Files) -> None:
    with pytest.raises(DataError, match=r"adult\.test: a line of 3 fields, expected 15: '1,2,3'"):
        adult_set({**lines, TEST_FILE: b"1, 2, 3\n"}, "a test")


def test_a_value_on_an_edge_falls_below_it() -> None:
    assert quintile_edges(np.arange(11.0)).tolist() == [2, 4, 6, 8]


class Nowhere(Adult):
    """Adult that no source serves."""

    def sources(self) -> list[Source]:
        return [CacheSource()]


class Served(Adult):
    """Adult from a folder, whose content is made up."""

    def sources(self) -> list[Source]:
        return super().sources()[:2]


@pytest.fixture
def folder(tmp_path: Path, lines: Files, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder with the made-up files, which are declared to be the right ones."""
    hashes = {name: sha256_hex(content) for name, content in lines.items()}
    monkeypatch.setattr(adult, "ADULT", Archive("adult", hashes))
    for name, content in lines.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_workload_keeps_the_interface_s_promises(folder: Path) -> None:
    workload = Served(data_dir=folder)
    validate_workload(workload)
    checked = CheckedWorkload(workload)
    assert checked.fingerprint().dataset_id.startswith("adult-train:") and checked.fingerprint().n == 10
    inputs, targets = checked.batch([9, 0])
    assert targets.tolist() == [1.0, -1.0]
    assert np.array_equal(inputs.numpy(), workload.features()[[9, 0]])
    assert checked.evaluate(checked.boss(), CPU).value == 0.0


def test_the_objective_is_mean_hinge_loss_and_half_lambda_norm_squared(folder: Path) -> None:
    """One step of plain SGD is one step along the subgradient of the whole objective."""
    workload = Served(data_dir=folder)
    boss = workload.boss()
    torch.nn.init.constant_(boss.weight, 0.25)  # type: ignore[arg-type]
    before = boss.weight.detach().clone()  # type: ignore[operator, union-attr]
    optimizer = workload.optimizer(boss)
    assert workload.regularisation == pytest.approx(1.0)  # 1 / (0.1 · 10)
    inputs, targets = workload.batch(range(10))
    losses = workload.losses(boss(inputs), targets)
    assert losses.tolist() == pytest.approx([4.5, 4.5, 4.25, 4.5, 4.5, 4.5, 4.5, 0, 0, 0])
    losses.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    gradient = -(inputs * targets[:, None])[:7].sum(0) / 10 + workload.regularisation * before
    lr = optimizer.param_groups[0]["lr"]
    assert torch.allclose(boss.weight, before - lr * gradient)  # type: ignore[arg-type]


def test_a_changed_file_of_the_user_s_is_refused(folder: Path) -> None:
    (folder / TRAIN_FILE).write_bytes(b"1, 2, 3\n")
    with pytest.raises(DataError, match=r"adult\.data: SHA-256 of the content is .*leave out --data-dir"):
        Served(data_dir=folder).fingerprint()


def test_without_any_source_the_packaged_set_serves_under_its_own_name(caplog: pytest.LogCaptureFixture) -> None:
    workload = Nowhere()
    validate_workload(workload)
    assert workload.fingerprint().dataset_id.startswith("breast-cancer-train:")
    assert "using the small set breast-cancer (456 training instances) from scikit-learn INSTEAD" in caplog.text


def test_the_packaged_set_keeps_a_fifth_of_each_class_for_the_test() -> None:
    table = breast_cancer_set()
    assert np.bincount(table.train_labels).tolist() == [170, 286] and np.bincount(table.test_labels).tolist() == [
        42,
        71,
    ]
    assert (table.train_features.sum(axis=1) == 30).all() and table.train_features.shape[1] == 150


def test_no_source_and_no_packaged_set_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise SourceFailed("scikit-learn is not installed")

    monkeypatch.setattr(adult, "breast_cancer_set", missing)
    with pytest.raises(DataError, match=r"adult: no source could serve it \(cache: .*; small set: scikit-learn is not"):
        Nowhere().fingerprint()


def test_another_model_is_refused() -> None:
    with pytest.raises(WorkloadError, match="model 'resnet8' is unknown; adult has a linear SVM only"):
        Adult(model="resnet8")
    with pytest.raises(UserError, match="nowhere"):
        Adult(data_dir=Path("nowhere")).fingerprint()
