"""Mail servers: the configuration that points one at the tunnel, and `doctor`, which proves it in place."""

from hubtunnel.mta.catalogue import NAMES, recipe
from hubtunnel.mta.plan import Inlet, Plan, Route, make_plan
from hubtunnel.mta.recipe import File, Recipe

__all__ = ["NAMES", "File", "Inlet", "Plan", "Recipe", "Route", "make_plan", "recipe"]
