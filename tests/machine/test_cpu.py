from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slmbench.machine import cpu
from slmbench.machine.accelerators import accelerators
from slmbench.measure.conditions import usable_cores

Tree = Callable[[dict[str, str]], Path]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")


@linux
def test_flags_are_those_that_choose_kernels(tree: Tree) -> None:
    root = tree({"cpuinfo": "processor: 0\nflags\t\t: fpu smep sse2 avx2 avx512_bf16 amx_tile f16c hypervisor"})
    assert cpu.cpu_flags(root) == ("amx_tile", "avx2", "avx512_bf16", "f16c")


@linux
def test_arm_names_its_instruction_sets_otherwise(tree: Tree) -> None:
    root = tree({"cpuinfo": "processor: 0\nFeatures : fp asimd aes asimddp sve i8mm bf16 sme2\nCPU part : 0xd40"})
    assert cpu.cpu_flags(root) == ("asimd", "asimddp", "bf16", "i8mm", "sme2", "sve")
    assert cpu.cpu_model(root) == "CPU part 0xd40"


@linux
def test_processors_of_one_name_and_two_steppings_differ(tree: Tree) -> None:
    name = "model name: AMD EPYC\ncpu family: 26\nmodel: 2\nstepping: {}"
    first = cpu.cpu_model(tree({"cpuinfo": name.format(1)}))
    assert first == "AMD EPYC (26 2 1)"
    assert first != cpu.cpu_model(tree({"cpuinfo": name.format(2)}))


@linux
def test_governor_of_mixed_cores_names_all(tree: Tree) -> None:
    assert cpu.governor(tree({})) is None
    root = tree({f"devices/system/cpu/cpu{i}/cpufreq/scaling_governor": "performance" for i in range(2)})
    assert cpu.governor(root) == "performance"
    tree({"devices/system/cpu/cpu3/cpufreq/scaling_governor": "powersave"})
    assert cpu.governor(root) == "performance+powersave"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"intel_pstate/no_turbo": "0"}, True),
        ({"intel_pstate/no_turbo": "1", "cpufreq/boost": "1"}, False),
        ({"cpufreq/boost": "1"}, True),
        ({"cpufreq/boost": "0"}, False),
        ({}, None),
    ],
)
def test_turbo(tree: Tree, files: dict[str, str], expected: bool | None) -> None:
    assert cpu.turbo(tree({f"devices/system/cpu/{name}": text for name, text in files.items()})) is expected


@linux
def test_two_logical_cores_of_one_physical_core_count_once(tree: Tree) -> None:
    siblings = "devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = tree({siblings.format(core): "0-255" for core in usable_cores()})
    assert cpu.physical_cores(root) == 1
    tree({siblings.format(core): str(core) for core in usable_cores()})
    assert cpu.physical_cores(root) == len(usable_cores())


@linux
def test_hypervisor(tree: Tree) -> None:
    root = tree({"cpuinfo": "flags: avx2"})
    assert cpu.hypervisor(root, root) is None
    tree({"cpuinfo": "flags: avx2 hypervisor"})
    assert cpu.hypervisor(root, root) == "unnamed"
    tree({"class/dmi/id/sys_vendor": "QEMU"})
    assert cpu.hypervisor(root, root) == "qemu"


def pci(root: Path, address: str, driver: str | None = None, **ids: str) -> None:
    device = root / "bus/pci/devices" / address
    device.mkdir(parents=True)
    for name, text in {"class": ids["kind"], "vendor": ids["vendor"], "device": ids["device"]}.items():
        (device / name).write_text(text + "\n")
    if driver:
        folder = root / "bus/pci/drivers" / driver
        folder.mkdir(parents=True)
        (device / "driver").symlink_to(folder)


@linux
def test_accelerators_are_told_from_virtual_displays_and_network_cards(tree: Tree) -> None:
    root = tree(
        {
            "module/nvidia/version": "580.65.06",
            "driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA H100 80GB HBM3\nIRQ: 3",
        }
    )
    pci(root, "0000:00:02.0", kind="0x030000", vendor="0x1234", device="0x1111")  # QEMU's display
    pci(root, "0000:00:03.0", kind="0x020000", vendor="0x8086", device="0x1000")  # Intel's network card
    pci(root, "0000:00:0b.0", "intel_vpu", kind="0x120000", vendor="0x8086", device="0x7d1d")
    pci(root, "0000:01:00.0", "nvidia", kind="0x030200", vendor="0x10de", device="0x2330")
    pci(root, "0000:c5:00.1", "amdxdna", kind="0x118000", vendor="0x1022", device="0x1502")
    pci(root, "0000:c6:00.0", kind="0x030000", vendor="0x1002", device="0x15bf")
    assert [found.label() for found in accelerators(root, root)] == [
        "gpu AMD 1002:15bf (driver none)",
        "gpu NVIDIA H100 80GB HBM3 (driver nvidia 580.65.06)",
        "npu AMD 1022:1502 (driver amdxdna)",
        "npu Intel 8086:7d1d (driver intel_vpu)",
    ]
