from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slmbench.system.container import ContainerLimits, container_limits

Tree = Callable[[dict[str, str]], Path]


def limits(tree: Tree, files: dict[str, str]) -> ContainerLimits:
    root = tree(files)
    return container_limits(root / "proc", root / "cgroup")


def test_version_2_the_tightest_group_on_the_way_up_counts(tree: Tree) -> None:
    found = limits(
        tree,
        {
            "proc/self/cgroup": "0::/a/b",
            "cgroup/a/b/cpu.max": "max 100000",
            "cgroup/a/b/memory.max": "4294967296",
            "cgroup/a/cpu.max": "150000 100000",
            "cgroup/a/memory.max": "2147483648",
        },
    )
    assert found == ContainerLimits(1.5, 2147483648)


def test_version_2_in_a_container_the_mount_is_the_group(tree: Tree) -> None:
    files = {"proc/self/cgroup": "0::/../docker/abc", "cgroup/cpu.max": "50000 100000", "cgroup/memory.max": "max"}
    assert limits(tree, files) == ContainerLimits(0.5, None)


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1(tree: Tree, mount: str) -> None:
    found = limits(
        tree,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/box\n4:memory:/box\n3:pids:/box",
            f"cgroup/{mount}/box/cpu.cfs_quota_us": "200000",
            f"cgroup/{mount}/box/cpu.cfs_period_us": "100000",
            "cgroup/memory/box/memory.limit_in_bytes": "1073741824",
            "cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert found == ContainerLimits(2.0, 1073741824)


def test_no_quota_and_no_limit_are_none(tree: Tree) -> None:
    files = {
        "proc/self/cgroup": "1:cpu:/\n4:memory:/",
        "cgroup/cpu/cpu.cfs_quota_us": "-1",
        "cgroup/cpu/cpu.cfs_period_us": "100000",
        "cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert limits(tree, files) == ContainerLimits(None, None)
    assert limits(tree, {"proc/self/cgroup": ""}) == ContainerLimits(None, None)
