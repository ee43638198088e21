"""The demo's play: what is not what must come is never told as if it were."""

from __future__ import annotations

import pytest

from host.cli.scenarios import Scenario, Stage, scenarios
from host.errors import HostError, PermissionDenied

STAGE = Stage("/examples", "/stage", "/stage/data", 1, 1)
PLAY = scenarios(STAGE)
NAMES = [f"{scenario.plugin}-{scenario.tries}" for scenario in PLAY]


@pytest.mark.parametrize("scenario", PLAY, ids=NAMES)
@pytest.mark.parametrize("wrong", [None, "root:x:0:0", {"/etc/shadow": "root"}, 0, [], OSError(5, "x"), HostError("x")])
def test_another_outcome_is_unexpected(scenario: Scenario, wrong: object) -> None:
    assert scenario.judge(wrong) == ""


def test_a_refusal_of_another_kind_target_or_layer_is_unexpected() -> None:
    [grab] = (scenario for scenario in PLAY if scenario.hook == "grab")

    def refused(permission: str, target: str, layer: str) -> PermissionDenied:
        return PermissionDenied("no", permission=permission, target=target, layer=layer)

    assert grab.judge(refused("fs.read", "/etc/passwd", "audit_hook")) == "refused fs.read"
    for other in (("fs.write", "/etc/passwd"), ("fs.read", "/x")):
        assert grab.judge(refused(*other, "audit_hook")) == ""
    assert grab.judge(refused("fs.read", "/etc/passwd", "landlock")) == ""
