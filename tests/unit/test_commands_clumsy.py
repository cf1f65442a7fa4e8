"""What a hand types wrong ends with one sentence and the exit code that is documented."""

import json

import pytest

from attestation.cli import main
from tests.appraisal_world import policy_text


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "policy.yaml").write_text(policy_text())
    return tmp_path / "policy.yaml"


@pytest.mark.parametrize("data", [b"", b"\xff\xfe{\0}\0", b"version: 1\n", b"\x7fELF"])
def test_what_is_no_report_says_so_in_json_too(tmp_path, capsys, data):
    (tmp_path / "file").write_bytes(data)
    assert main(["verify", "report", str(tmp_path / "file"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "file-kind"
    for command in ("inspect", "explain"):
        assert main([command, str(tmp_path / "file")]) == 3
        assert "(file-kind)" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "1e300", "soon"])
def test_a_time_nobody_waits_for_is_a_usage_error(policy, seconds):
    words = ["verify", "service", "https://[::1]:1", "--policy", str(policy), "--timeout", seconds]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2


@pytest.mark.parametrize("url", ["ftp://pccs", "pccs", "https://[::1"])
def test_a_pccs_without_https_is_the_operator_s_to_mend(tmp_path, capsys, url):
    words = ["endorse", "fetch", url, "--fmspc", "00806f050000", "--to", str(tmp_path)]
    assert main(words) == 2
    assert "(service-url)" in capsys.readouterr().err
