"""The mail servers there are recipes for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hubtunnel.mta import courier, exim, flush, opensmtpd, postfix, qmail, sendmail
from hubtunnel.mta.plan import Plan
from hubtunnel.mta.recipe import Recipe

_RECIPES: dict[str, Callable[[Plan], Recipe]] = {
    "postfix": postfix.recipe,
    "exim": exim.recipe,
    "sendmail": sendmail.recipe,
    "opensmtpd": opensmtpd.recipe,
    "courier": courier.recipe,
    "qmail": qmail.recipe,
}
NAMES = tuple(_RECIPES)


def recipe(mta: str, plan: Plan) -> Recipe:
    """The recipe for one of `NAMES`. Raises `UsageError` where the plan asks for what that mail server cannot do."""
    made = _RECIPES[mta](plan)
    return replace(made, files=(*made.files, *flush.files(mta)), steps=made.steps + flush.STEPS)
