"""Where the actors go: one bundle each, all on one machine, since weights cross in shared memory."""

from __future__ import annotations

from typing import Any

WAIT_S = 120.0


def place(ray: Any, num_actors: int, *, use_gpu: bool, num_followers: int = 0) -> list[dict[str, Any]]:
    """Actor options for `num_actors` bundles packed on one machine; the first two share a GPU if asked.

    Those of the trainer's other processes come last; each has a GPU of its own.

    Raises RuntimeError when the cluster has no room within two minutes. `ray` is the module, which has no types.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundles = [{"CPU": 0.5, **({"GPU": 0.5} if use_gpu and i < 2 else {})} for i in range(num_actors)]
    bundles += [{"CPU": 0.5 / num_followers, **({"GPU": 1} if use_gpu else {})} for _ in range(num_followers)]
    group = placement_group(bundles, strategy="STRICT_PACK")
    if not group.wait(WAIT_S):
        raise RuntimeError(f"no machine of the Ray cluster has room for {bundles}; it offers {ray.cluster_resources()}")
    return [
        {
            "num_cpus": bundle["CPU"],
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
        }
        for i, bundle in enumerate(bundles)
    ]
