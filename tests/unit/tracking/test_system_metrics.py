"""How busy the machine was during a training, in the run of it."""

import json
import os
import stat
import time

import pytest

from striate.tracking import system_metrics
from striate.tracking.system_metrics import Sampler


def wait_for_samples(sampler, count):
    end = time.monotonic() + 30
    while len(sampler.samples) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(system_metrics, "SECONDS", 0.15)
    monkeypatch.setattr(system_metrics.shutil, "which", lambda name: None)


def test_samples_are_taken_while_a_training_goes_on(fast):
    sampler = Sampler()
    sampler.sample()
    assert sampler.samples == []  # no training has begun
    begin = time.time()
    sampler.begin()
    sampler.begin()  # a second training on the same machine
    wait_for_samples(sampler, 3)
    sampler.end()
    first, second, *_ = sampler.samples
    assert begin < first.at < second.at <= time.time()
    assert sampler.between(first.at, second.at) == [second]
    assert set(first.values) == {
        "cpu_utilization_percentage",
        "system_memory_usage_megabytes",
        "system_memory_usage_percentage",
    }
    assert all(0 <= one.values["cpu_utilization_percentage"] <= 100 for one in sampler.samples)
    assert 0 < first.values["system_memory_usage_percentage"] <= 100


def test_a_short_training_has_one_sample_at_its_end(monkeypatch):
    monkeypatch.setattr(system_metrics.shutil, "which", lambda name: None)
    sampler = Sampler()
    sampler.begin()
    sampler.sample(1.0)
    assert sampler.samples == []  # after no time at all, the use of a processor means nothing
    time.sleep(0.15)
    sampler.sample(2.0)
    assert [one.at for one in sampler.samples] == [2.0]


def test_a_processor_that_computes_is_busy(monkeypatch):
    sampler = Sampler()
    sampler.begin()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    sampler.sample()
    assert sampler.samples[0].values["cpu_utilization_percentage"] > 50 / os.cpu_count()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of NVIDIA's name on the path, which prints these lines."""

    def put(*lines, status=0):
        path = tmp_path / "nvidia-smi"
        text = json.dumps("\\n".join(lines))
        path.write_text(f"#!/bin/sh\nprintf {text}\nexit {status}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return str(path)

    return put


def test_each_gpu_is_measured_and_what_it_does_not_tell_is_left_out(program):
    path = program("0, 87, 1000, 81559, 310.52", "1, [N/A], 0, 81559, [N/A]")
    assert system_metrics._gpus(path) == {
        "gpu_0_utilization_percentage": 87.0,
        "gpu_0_memory_usage_megabytes": 1048.6,
        "gpu_0_memory_usage_percentage": 1.2,
        "gpu_0_power_usage_watts": 310.52,
        "gpu_1_memory_usage_megabytes": 0.0,
        "gpu_1_memory_usage_percentage": 0.0,
    }


def test_a_driver_that_fails_costs_no_sample(program, monkeypatch):
    program("NVIDIA-SMI has failed", status=9)
    sampler = Sampler()
    sampler.begin()
    time.sleep(0.15)
    sampler.sample()
    (one,) = sampler.samples
    assert not any(name.startswith("gpu_") for name in one.values)


def test_the_interval_starts_anew_with_each_training_of_a_process(monkeypatch, fast):
    monkeypatch.setattr(system_metrics, "PART", 100)
    sampler = Sampler()
    sampler.begin()
    time.sleep(0.5)  # the thread waits for as long as a long training makes it
    monkeypatch.setattr(system_metrics, "PART", 0.01)
    start = time.time()
    sampler.begin()
    wait_for_samples(sampler, 1)
    sampler.end()
    assert time.time() - start < 5
    sampler._thread.join(5)
    assert not sampler._thread.is_alive()


def test_the_use_before_a_training_is_not_its_own(monkeypatch, fast):
    sampler = Sampler()
    sampler.begin()
    before = sampler._processor
    sampler.end()
    time.sleep(0.15)
    sampler.begin()
    assert sampler._processor != before


def test_samples_that_were_logged_are_dropped(monkeypatch, fast):
    sampler = Sampler()
    sampler.samples = [system_metrics.Sample(at, {}) for at in (1.0, 2.0, 3.0)]
    sampler.forget(2.0)
    assert [one.at for one in sampler.samples] == [3.0]
