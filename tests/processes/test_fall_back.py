"""No source of a data set can be reached: a packaged small set stands in, which every word on the run says."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.report import read_report
from tests.processes.roles import Role

pytestmark = pytest.mark.processes
CLOSED = "http://127.0.0.1:9"


def cut_off(folder: Path) -> dict[str, str]:
    """An environment without network, registry clients and cache."""
    (folder / "bin").mkdir()
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), CLOSED)
    return {
        **proxies,
        "no_proxy": "",
        "NO_PROXY": "",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PATH": str(folder / "bin"),
        "AUTOASSIST_CACHE": str(folder / "cache"),
    }


@pytest.mark.parametrize(
    ("workload", "served", "n"), [("adult", "breast-cancer", 456), ("fashion-mnist", "mnist-5k", 4000)]
)
def test_a_run_that_fell_back_names_the_served_set_and_no_role_searches_again(
    workload: str, served: str, n: int, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    words = ("run", workload, "--epochs", "1", "--batch-size", "250", "--run-dir", str(run_dir))
    words += ("--deterministic",)  # so its Assistant is in the run, however late it comes
    role = Role(*words, environment=cut_off(tmp_path))
    assert role.end() == 0, role.text
    report = read_report(run_dir)
    assert (report.workload, report.n) == (f"{workload} (fell back to {served})", n)
    assert report.dataset_id.startswith(f"{served}-train:")
    assert f"{workload} (fell back to {served}) · autoassist · seed 1 · finished" in " ".join(role.text.split())
    assert role.text.count(f"{workload}: cache did not serve") == 1, role.text  # the launcher's words, and no role's
    for name in ("boss-0", "assistant-0"):
        said = (run_dir / "logs" / f"{name}.log").read_text()
        assert f"using the small set {served}" in said and "did not serve" not in said
