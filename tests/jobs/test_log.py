import json

import pytest

from onnxprune.errors import UsageError
from onnxprune.jobs.log import Log


def written(path, count=3):
    with Log(path) as log:
        for k in range(count):
            log.add(f"k{k}", {"value": k / 3, "text": "ä\n"})
    return path.read_bytes()


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "log.jsonl"
    written(path)
    with Log(path) as log:
        assert log.results == {f"k{k}": {"value": k / 3, "text": "ä\n"} for k in range(3)}
        assert log.damaged == 0


def test_a_log_cut_off_anywhere_keeps_all_whole_lines_and_takes_more(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = written(path)
    ends = [k + 1 for k, b in enumerate(whole) if b == ord("\n")]
    for cut in sorted({*range(0, len(whole) + 1, 5), *ends, *(e - 1 for e in ends), *(e - 2 for e in ends)}):
        path.write_bytes(whole[:cut])
        with Log(path) as log:
            lines = sum(e <= cut + 1 for e in ends)  # a line without its last byte, the newline, is whole
            assert list(log.results) == [f"k{k}" for k in range(lines)]
            log.add("new", cut)
        with Log(path) as log:
            assert list(log.results) == [*(f"k{k}" for k in range(lines)), "new"]


def test_a_changed_byte_costs_no_more_than_its_line(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = written(path)
    middle = whole.index(b'"k1"') + 2
    path.write_bytes(whole[:middle] + b"9" + whole[middle + 1 :])
    with Log(path) as log:
        assert list(log.results) == ["k0", "k2"]
        assert log.damaged == 1


def test_a_key_counts_once_and_its_result_changes_only_if_it_was_given_up(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path) as log:
        log.add("a", 1)
        log.add("a", 2)
    line = path.read_bytes()
    path.write_bytes(line + line)
    with Log(path) as log:
        assert log.results == {"a": 1}
        log.forget("a")
        log.add("a", 3)
    with Log(path) as log:
        assert log.results == {"a": 3}


def test_what_is_read_now_is_what_is_read_later(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        log.add("a", {"pair": (1, 2), 3: None})
        assert log.results["a"] == json.loads(json.dumps({"pair": (1, 2), 3: None}))


def test_two_runs_do_not_write_the_same_log(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path), pytest.raises(UsageError, match="another run writes"):
        Log(path)
    Log(path).close()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        Log(tmp_path / "nowhere" / "log.jsonl")
