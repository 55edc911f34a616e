"""Energy is read where the device tells, and is none where it does not."""

import pytest

from learngene import provenance


def test_joules_of_processors_are_those_of_rapl_packages(tmp_path):
    for name, microjoules in (
        ("intel-rapl:0", "1500000\n"),
        ("intel-rapl:1", "250000\n"),
        ("intel-rapl:0:0", "9000000\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(microjoules)
    assert provenance._processor_joules(tmp_path) == [1.5, 0.25]  # :0:0 is a part of :0
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("\n")
    assert provenance._processor_joules(tmp_path) == []
    assert provenance._processor_joules(tmp_path / "nowhere") == []


def test_joules_are_the_sum_of_all_devices_or_none(monkeypatch):
    monkeypatch.setattr(provenance, "_gpu_joules", lambda: [2.0])
    monkeypatch.setattr(provenance, "_processor_joules", lambda: [1.5, 0.25])
    assert provenance.joules() == pytest.approx(3.75)
    monkeypatch.setattr(provenance, "_gpu_joules", list)
    monkeypatch.setattr(provenance, "_processor_joules", list)
    assert provenance.joules() is None
