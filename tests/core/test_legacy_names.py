"""Names of parts in earlier versions: run folders keep working, and an old name opens no more than a new one."""

import pytest

from dlrun.config.parts import PART_KINDS, is_part
from dlrun.core.renamed_parts import CURRENT_NAMES, to_current_names, to_original_names


def test_an_old_name_is_one_of_a_part_that_there_is():
    for old, name in CURRENT_NAMES.items():
        assert name not in CURRENT_NAMES, f"{old} leads to {name}, which is an old name too"
        assert any(is_part(name, kind) for kind in PART_KINDS), (
            f"{old} leads to {name}, which is no part"
        )


def test_names_are_replaced_wherever_a_part_is_named_and_back_again(monkeypatch):
    monkeypatch.setitem(CURRENT_NAMES, "dlrun.before.dense", "dlrun.today.dense")
    saved = {
        "model": {
            "_target_": "dlrun.before.dense",
            "units": [1, {"_target_": "dlrun.before.dense"}],
        },
        "note": "x",
    }
    today = to_current_names(saved)
    assert (
        today["model"]["_target_"] == today["model"]["units"][1]["_target_"] == "dlrun.today.dense"
    )
    assert to_original_names(today) == saved
    assert to_current_names({"note": "dlrun.before.dense"}) == {"note": "dlrun.before.dense"}


@pytest.mark.parametrize("target", [["dlrun.before.dense"], {"_target_": 1}, None, 3])
def test_what_is_no_name_is_left_to_who_checks_it(target):
    assert to_current_names({"_target_": target}) == {"_target_": target}
