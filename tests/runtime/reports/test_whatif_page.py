"""The what-if page."""

from __future__ import annotations

import re

from jepa_runtime.reports.whatif_page import ranked, render_whatif, rows_of
from tests.runtime.replay.pages import STEPS, make_branch, make_whatif, several


def test_executed_branch_is_first_and_the_others_are_sorted_by_final_energy() -> None:
    result = ranked(
        [
            make_branch("far", [0, 0, 0, 3]),
            make_branch("executed", [9] * 4),
            make_branch("near", [9, 9, 9, 1]),
        ]
    )
    assert [branch.label for branch in result] == ["executed", "near", "far"]


def test_branches_without_a_goal_are_in_the_requested_order() -> None:
    result = ranked([make_branch("b", None), make_branch("a", None)])
    assert [branch.label for branch in result] == ["b", "a"]


def test_page_states_the_number_of_omitted_futures() -> None:
    text = render_whatif(several(), title="a drive", subtitle="a model")
    assert "3 more futures are not shown." in text
    assert text.count("executed, step") == STEPS and "fan 5, step" not in text


def test_steps_without_images_are_reported_and_omitted_from_the_charts() -> None:
    text = render_whatif(several(), title="a drive", subtitle="a model")
    assert text.count("<td>no image</td>") == 1
    assert "nan" not in "".join(re.findall("points='([^']*)'", text))


def test_page_without_a_goal_has_no_energies() -> None:
    text = render_whatif(
        make_whatif(make_branch("0,0", None), goal=False), title="a drive", subtitle="a model"
    )
    assert "no goal" in text and "<svg" not in text


def test_page_escapes_names() -> None:
    result = make_whatif(make_branch("<b>'bold'</b>.npy", [0.1] * 4))
    text = render_whatif(result, title="<script>", subtitle="&")
    assert "<b>'bold'" not in text and text.count("<script") == 1
    assert "alt='&lt;b&gt;&#x27;bold&#x27;&lt;/b&gt;.npy, step 1'" in text


def test_identical_futures_are_one_row_that_says_so() -> None:
    alike = [make_branch(f"fan {index}", [0.4, 0.3, 0.2, 0.1]) for index in range(5)]
    result = make_whatif(
        *alike, make_branch("other", [0.5] * 4), make_branch("executed", [0.4, 0.3, 0.2, 0.1])
    )
    assert [(row.label, row.count) for row in rows_of(result.branches)] == [
        ("executed", 1), ("fan 0 (5 identical futures)", 5), ("other", 1)
    ]  # fmt: skip
    text = render_whatif(result, title="a drive", subtitle="a model")
    assert text.count("<td class='text'>fan ") == 1 and "not shown" not in text
