"""The registry, and what is made from it: keymap, footer, help, palette."""

from __future__ import annotations

from itertools import combinations

import pytest

from tui.actions import ACTIONS, ALL, BY_ID, PANELS, footer, in_context
from tui.keymap import PRESETS, RESERVED, bindings_for, build, find_clashes, key_label, split_keys
from tui.screens.help import sections


def test_ids_are_unique() -> None:
    assert len(BY_ID) == len(ACTIONS)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_clashes(preset: str) -> None:
    keymap = build(preset, {})
    assert keymap.problems == ()
    assert find_clashes(keymap.keys) == []


def test_two_actions_never_share_a_key_in_a_panel() -> None:
    for one, other in combinations(ACTIONS, 2):
        if one.contexts & other.contexts:
            assert not set(split_keys(one.keys)) & set(split_keys(other.keys)), (one.id, other.id)


def test_own_key_that_is_taken_is_left_out_and_told() -> None:
    keymap = build("default", {"container.stop": "r", "container.kill": "ctrl+k"})
    assert keymap.keys["container.stop"] == "s"
    assert keymap.keys["container.kill"] == "ctrl+k"
    assert keymap.overrides == {"container.kill": "ctrl+k"}
    (problem,) = keymap.problems
    assert "container.stop" in problem
    assert "container.restart" in problem


def test_swapping_two_keys_is_no_clash() -> None:
    keymap = build("default", {"container.stop": "r", "container.restart": "s"})
    assert keymap.problems == ()
    assert (keymap.keys["container.stop"], keymap.keys["container.restart"]) == ("r", "s")


def test_the_lists_own_keys_take_part() -> None:
    keymap = build("default", {"container.stop": "j"})
    assert keymap.keys["container.stop"] == "s"
    assert "table." in keymap.problems[0]


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_reserved_keys_stay(key: str) -> None:
    assert build("default", {"container.stop": key}).keys["container.stop"] == "s"


def test_unknown_action_and_preset_are_told() -> None:
    keymap = build("emacs", {"container.fly": "w"})
    assert len(keymap.problems) == 2
    assert keymap.keys["container.stop"] == "s"


@pytest.mark.parametrize("panel", PANELS)
def test_help_has_every_action_once(panel: str) -> None:
    keymap = build("default", {})
    lines = [
        line for heading, lines in sections(keymap, panel) if heading not in ("Moving", "Dialogs") for line in lines
    ]
    assert sorted(label for _, label, _ in lines) == sorted(action.label for action in ACTIONS)
    for action in ACTIONS:
        assert any(key_label(split_keys(action.keys)[0]) in keys for keys, label, _ in lines if label == action.label)
    assert {"^x", "^l"} <= {keys for keys, *_ in dict(sections(keymap, panel))["Dialogs"]}


@pytest.mark.parametrize(("panel", "first"), [("images", "Image"), ("networks", "Network"), ("log", "Log")])
def test_help_begins_with_what_is_of_the_panel(panel: str, first: str) -> None:
    assert sections(build("default", {}), panel)[0][0] == first


@pytest.mark.parametrize("panel", PANELS)
def test_footer_offers_only_what_works_there(panel: str) -> None:
    for action in footer(panel, None):
        assert panel in action.contexts
        assert action.keys
        assert action.when is None


@pytest.mark.parametrize("panel", PANELS)
def test_every_key_of_a_panel_is_bound(panel: str) -> None:
    bound = {binding.id for binding in [*bindings_for(panel), *bindings_for(None)]}
    assert {action.id for action in in_context(panel) if action.keys} == bound


def test_danger_says_so() -> None:
    assert {action.id for action in ACTIONS if action.danger} == {
        "container.checkpoint",
        "container.kill",
        "container.remove",
        "image.prune",
        "image.remove",
        "image.untag",
        "network.disconnect",
        "network.prune",
        "network.remove",
    }
    assert BY_ID["app.help"].contexts == ALL
