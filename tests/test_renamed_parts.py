"""Names of parts in earlier versions: run folders keep working, and an old name opens no more than a new one."""

import pytest

from dlrun.config.parts import KINDS, is_part
from dlrun.core.renamed_parts import RENAMED, as_first_named, renamed


def test_an_old_name_is_one_of_a_part_that_there_is():
    for old, name in RENAMED.items():
        assert name not in RENAMED, f"{old} leads to {name}, which is an old name too"
        assert any(is_part(name, kind) for kind in KINDS), f"{old} leads to {name}, which is no part"


def test_names_are_replaced_wherever_a_part_is_named_and_back_again(monkeypatch):
    monkeypatch.setitem(RENAMED, "dlrun.before.dense", "dlrun.today.dense")
    saved = {"model": {"_target_": "dlrun.before.dense", "units": [1, {"_target_": "dlrun.before.dense"}]}, "note": "x"}
    today = renamed(saved)
    assert today["model"]["_target_"] == today["model"]["units"][1]["_target_"] == "dlrun.today.dense"
    assert as_first_named(today) == saved
    assert renamed({"note": "dlrun.before.dense"}) == {"note": "dlrun.before.dense"}


@pytest.mark.parametrize("target", [["dlrun.before.dense"], {"_target_": 1}, None, 3])
def test_what_is_no_name_is_left_to_who_checks_it(target):
    assert renamed({"_target_": target}) == {"_target_": target}
