from __future__ import annotations

from pathlib import Path

import pytest

from deploycomp.runtime import cpu

INTEL_VNNI = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512dq avx512bw avx512vl avx512_vnni

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512dq avx512bw avx512vl avx512_vnni
"""
AMD_ZEN5 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9755
flags\t\t: sse2 avx avx2 fma avx512f avx512bw avx512vl avx_vnni avx512_vnni avx512_bf16
"""
ALDER_LAKE = "processor : 0\nvendor_id : GenuineIntel\nmodel name : i5-12400\nflags : avx2 fma avx_vnni\n"
SKYLAKE_X = "processor : 0\nvendor_id : GenuineIntel\nmodel name : 7900X\nflags : avx2 avx512f avx512bw avx512vl\n"
AVX2_ONLY = "processor : 0\nvendor_id : AuthenticAMD\nmodel name : AMD EPYC 7R32\nflags : sse2 avx avx2 fma\n"
OLD = "processor : 0\nvendor_id : GenuineIntel\nmodel name : Core 2\nflags : sse2 ssse3\n"
NEOVERSE = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd aes asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
Features\t: fp asimd aes asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""
BIG_LITTLE = """processor : 0
Features : fp asimd asimddp
CPU implementer : 0x41
CPU part : 0xd0b

processor : 1
Features : fp asimd
CPU implementer : 0x41
CPU part : 0xd03
"""


@pytest.fixture(autouse=True)
def _no_omp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def _root(folder: Path, cpuinfo: str | None = None, **files: str) -> Path:
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    if cpuinfo is not None:
        (folder / "proc" / "cpuinfo").write_text(cpuinfo)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "target", "bits"),
    [
        (INTEL_VNNI, "x86_64", "x86-vnni", 8),
        (AMD_ZEN5, "x86_64", "x86-vnni", 8),
        (ALDER_LAKE, "AMD64", "x86-vnni", 8),
        ("processor : 0\nflags : avx2 avx512vnni\n", "x86_64", "x86-vnni", 8),
        (SKYLAKE_X, "x86_64", "x86-avx512", 7),
        (AVX2_ONLY, "x86_64", "x86-avx2", 7),
        (OLD, "x86_64", "portable", 7),
        (NEOVERSE, "aarch64", "arm64-dotprod", 8),
        (BIG_LITTLE, "aarch64", "arm64", 7),
        ("processor : 0\nflags : whatever\n", "riscv64", "portable", 7),
    ],
)
def test_the_target_is_what_the_cpu_guarantees(tmp_path: Path, cpuinfo: str, machine: str, target: str, bits: int):
    facts = cpu.detect(root=_root(tmp_path, cpuinfo), machine=machine, affinity=4)
    assert cpu.resolve_target("auto", facts) == target
    assert cpu.why_weight_bits(target)[0] == bits
    assert cpu.has_int8_dot(target) == (bits == 8)


def test_x86_facts(tmp_path: Path):
    facts = cpu.detect(root=_root(tmp_path, INTEL_VNNI), machine="x86_64", affinity=2)
    assert (facts.vendor, facts.arch) == ("GenuineIntel", "x86_64")
    assert facts.name == "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"
    assert facts.cores == 1, "two processors of one core"
    assert (facts.affinity, facts.quota, facts.threads) == (2, None, 2)
    assert "avx512_vnni" in facts.flags


def test_arm_facts(tmp_path: Path):
    facts = cpu.detect(root=_root(tmp_path, NEOVERSE), machine="arm64", affinity=2)
    assert (facts.vendor, facts.name, facts.arch, facts.cores) == ("ARM", "Neoverse-V1", "aarch64", 2)
    assert {"asimddp", "i8mm", "sve"} <= facts.flags


def test_big_little_promises_only_what_all_cores_have(tmp_path: Path):
    assert "asimddp" not in cpu.detect(root=_root(tmp_path, BIG_LITTLE), machine="aarch64", affinity=2).flags


def test_a_mac_without_proc_is_asked_by_sysctl(tmp_path: Path):
    answers = {
        "machdep.cpu.brand_string": "Apple M3",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_I8MM": "1",
        "hw.physicalcpu": "8",
    }
    facts = cpu.detect(root=tmp_path, machine="arm64", affinity=8, sysctl=lambda name: answers.get(name, ""))
    assert (facts.vendor, facts.name, facts.cores, facts.threads) == ("Apple", "Apple M3", 8, 8)
    assert facts.flags == {"feat_dotprod", "feat_i8mm"}
    assert cpu.resolve_target("auto", facts) == "arm64-dotprod"


def test_a_machine_that_tells_nothing_is_portable(tmp_path: Path):
    facts = cpu.detect(root=tmp_path, machine="x86_64", affinity=3, sysctl=lambda name: "")
    assert (facts.flags, facts.cores, facts.threads) == (frozenset(), 3, 3)
    assert cpu.resolve_target("auto", facts) == "portable"


def test_other_targets_pass_through():
    for target in ("portable", "x86-vnni", "arm64", "cuda"):
        assert cpu.resolve_target(target) == target


def test_the_reason_for_seven_bits_is_the_arithmetic():
    bits, why = cpu.why_weight_bits("portable")
    assert bits == 7
    assert "VPMADDUBSW" in why
    assert "64770" in why
    assert 2 * 255 * 127 == 64770 > 32767 >= 2 * 255 * 64
    assert "asimddp" in cpu.why_weight_bits("arm64")[1]
    assert "int32" in cpu.why_weight_bits("cuda")[1]


@pytest.mark.parametrize(
    ("files", "quota", "threads"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 8),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None, 8),
        ({"sys/fs/cgroup/cpu.max": "100000 0"}, None, 8),
        ({}, None, 8),
        (  # the limit of the parent holds for the child
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
            },
            2.0,
            2,
        ),
        (  # the smaller of two
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "100000 100000",
                "sys/fs/cgroup/pod/cpu.max": "400000 100000",
            },
            1.0,
            1,
        ),
        (  # version 1, controllers mounted together
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            },
            2.5,
            3,
        ),
        (  # version 1 in a container: its own path is not visible, the root is its own
            {
                "proc/self/cgroup": "3:cpu:/docker/abc\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1.0,
            1,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None, 8),
        (  # outside of our namespace
            {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "300000 100000"},
            3.0,
            3,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "100000 100000"}, 1.0, 1),
    ],
)
def test_threads_follow_the_quota(tmp_path: Path, files: dict[str, str], quota: float | None, threads: int):
    root = _root(tmp_path, AMD_ZEN5, **files)
    assert cpu.quota(root=root) == quota
    assert cpu.default_threads(root=root, affinity=8) == threads
    assert cpu.detect(root=root, machine="x86_64", affinity=8).threads == threads


def test_a_quota_above_the_affinity_changes_nothing(tmp_path: Path):
    root = _root(tmp_path, **{"sys/fs/cgroup/cpu.max": "900000 100000"})
    assert cpu.default_threads(root=root, affinity=2) == 2


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), (" 4 ", 4), ("0", 8), ("-2", 8), ("many", 8), ("2,4", 8), ("", 8), ("²", 8)]
)
def test_omp_num_threads_is_honoured_when_it_is_a_positive_integer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, threads: int
):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cpu.default_threads(root=tmp_path, affinity=8) == threads


def test_this_machine_can_be_read():
    facts = cpu.detect()
    assert facts.threads >= 1
    assert facts.cores >= 1
    assert cpu.default_threads() == facts.threads
    assert cpu.resolve_target("auto") != "auto"


@pytest.mark.parametrize(
    ("here", "target", "expected"),
    [
        ("x86-vnni", "x86-vnni", True),
        ("x86-vnni", "x86-avx2", True),
        ("x86-vnni", "portable", True),
        ("arm64", "portable", True),
        ("portable", "portable", True),
        ("x86-avx2", "x86-vnni", False),
        ("x86-vnni", "arm64", False),
        ("arm64-dotprod", "arm64", True),
        ("arm64", "arm64-dotprod", False),
        ("x86-vnni", "cuda", False),
    ],
)
def test_what_a_machine_fulfils(here: str, target: str, expected: bool):
    assert cpu.fulfils(here, target) is expected
