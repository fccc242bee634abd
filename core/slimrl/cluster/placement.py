"""Where the actors go: all on one machine, since weights cross in shared memory, but the trainer's other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimrl.errors import UsageError

WAIT_S = 120.0


def place(
    ray: Any, num_actors: int, *, use_gpu: bool, num_followers: int = 0, num_machines: int = 1
) -> list[dict[str, Any]]:
    """Options for `num_actors` actors on one machine; the first two share a GPU if asked.

    Those of the trainer's other processes come last; each has a GPU of its own. Of several machines each has as many
    of the trainer's processes, in order; the first of all is one of the actors on the first machine.

    Raises UsageError when the cluster has no room within two minutes. `ray` is the module, which has no types.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = [{"CPU": 0.5, **({"GPU": 0.5} if use_gpu and i < 2 else {})} for i in range(num_actors)]
    # Ray counts ten-thousandths: shares that were rounded up would not fit into their sum
    share = max(int(500 / max(num_followers, 1)), 1) / 1000
    needs += [{"CPU": share, **({"GPU": 1} if use_gpu else {})} for _ in range(num_followers)]
    bundles, places = needs, list(range(len(needs)))
    if num_machines > 1:
        per_machine = (num_followers + 1) // num_machines
        places = [0] * num_actors + [rank // per_machine for rank in range(1, num_followers + 1)]
        bundles = [_sum(needs, places, machine) for machine in range(num_machines)]
    group = placement_group(bundles, strategy="STRICT_PACK" if num_machines == 1 else "STRICT_SPREAD")
    if not group.wait(WAIT_S):
        raise UsageError(
            f"the Ray cluster has no {num_machines} machine(s) with room for {bundles} (--actor-num-nodes x "
            f"--actor-num-gpus-per-node processes of the trainer); it offers {_offer(ray)}"
        )
    return [
        {
            "num_cpus": need["CPU"],
            "num_gpus": need.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place),
        }
        for need, place in zip(needs, places, strict=True)
    ]


def _sum(needs: Sequence[Mapping[str, float]], places: Sequence[int], machine: int) -> dict[str, float]:
    """What the actors of a machine need together."""
    there = [need for need, place in zip(needs, places, strict=True) if place == machine]
    return {name: sum(need.get(name, 0) for need in there) for need in there for name in need}


def _offer(ray: Any) -> str:
    """The machines of the cluster and what they have, free or not."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ", ".join(f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in machines)
