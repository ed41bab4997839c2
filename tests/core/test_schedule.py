"""The simulation of a schedule, against what is worked out by hand."""

import math

import pytest

from microtome.errors import MicrotomeError
from microtome.sweeps.schedule import Cluster, Job, simulate


@pytest.mark.parametrize(("n_jobs", "nodes"), [(1, 1), (7, 1), (7, 3), (9, 3), (2, 64)])
def test_equal_jobs_run_in_rounds(n_jobs, nodes):
    found = simulate([[Job(start=15, compute=45)]] * n_jobs, Cluster(nodes, submitted=n_jobs))
    assert found.seconds == math.ceil(n_jobs / nodes) * 60
    assert found.spent["compute"] == n_jobs * 45
    assert found.spent["idle"] == nodes * found.seconds - n_jobs * 60
    assert found.failed == 0


def test_the_file_system_is_shared_by_those_that_read():
    """Two read 100 bytes side by side, 10 a second: 20 s. The third has all for itself: 10 s. A
    fourth with 30 bytes would have begun with them and left first."""
    jobs = [[Job(start=0, read=100)]] * 3
    alone = Cluster(2, link=10, bandwidth=math.inf)
    assert simulate(jobs, alone).seconds == 20
    assert simulate(jobs, Cluster(2, link=10, bandwidth=10)).seconds == pytest.approx(30)
    # 30 bytes of each in 9 s, and then 20, 70 left of one and 70 of the other.
    jobs = [[Job(0, read=30)], [Job(0, read=100)], [Job(0, read=100)]]
    found = simulate(jobs, Cluster(3, bandwidth=10))
    assert found.seconds == pytest.approx(9 + 14)
    assert found.spent["read"] == pytest.approx(9 + 23 + 23)
    assert found.spent["idle"] == pytest.approx(14)


def test_reading_late_slows_those_that_read():
    """One reads alone for 5 s, 50 of its 100 bytes; then two share: 10 s for the other 50; of the
    second's 100, 50 are left and have 5 s."""
    jobs = [[Job(0, read=100)], [Job(5, read=100)]]
    found = simulate(jobs, Cluster(2, link=10, bandwidth=10))
    assert found.seconds == pytest.approx(20)
    assert found.spent["read"] == pytest.approx(15 + 15)


def test_a_nodes_own_disk_is_shared_with_none():
    jobs = [[Job(0, read=100, write=40)]] * 2
    found = simulate(jobs, Cluster(2, link=10, bandwidth=10, own_disk=50))
    assert found.spent["read"] == 2 + 2
    assert found.spent["write"] == pytest.approx(8 + 8)
    assert found.seconds == pytest.approx(10)


def test_what_is_submitted_late_runs_late():
    """One at a time is in the queue. Looks are at 0, 10 and 30; the first job's end, at 15, is seen
    at 30; the next looks are at 40 and 60."""
    jobs = [[Job(start=15)]] * 3
    assert simulate(jobs, Cluster(2, submitted=1)).seconds == 60 + 15
    assert simulate(jobs, Cluster(2, submitted=3)).seconds == 30
    # A second for each submission: the third job is submitted before a node is free.
    assert simulate(jobs, Cluster(2, submitted=3, submission=1)).seconds == 1 + 15 + 15
    assert simulate(jobs, Cluster(2, submitted=3, submission=20)).seconds == 60 + 15


def test_long_jobs_are_looked_for_as_often_as_short_ones():
    """Looks are at 0, 10, 30, 60, …, 1530, and then every 180 s; of a thousand years, too."""
    jobs = [[Job(start=2000)]] * 2
    assert simulate(jobs, Cluster(1, submitted=1)).seconds == 1530 + 3 * 180 + 2000
    years = 1000 * 365 * 86400
    assert simulate([[Job(start=years)]] * 2, Cluster(1, submitted=1)).seconds > 2 * years


def test_parts_of_a_shard_follow_each_other():
    """Two shards of two parts on two nodes: the second parts are submitted at the look at 30."""
    chains = [[Job(start=15), Job(start=20)]] * 2
    assert simulate(chains, Cluster(2)).seconds == 30 + 20


def test_merging_comes_last():
    merge = Job(start=15, read=1000, compute=3, write=100)
    found = simulate([[Job(60)]], Cluster(4, link=10, bandwidth=20), merge)
    assert found.merging == 15 + 110 + 3
    assert found.seconds == 60 + found.merging


def test_failures_cost_what_is_to_be_expected():
    """A job of t seconds that begins again after each failure, of which there are r a second, takes
    (exp(rt) - 1) / r seconds: 1,718 for a failure in 1,000 s on average."""
    n_jobs, rate, seconds = 4000, 1 / 1000, 1000
    cluster = Cluster(1, failures=rate, repair=0, requeue=0, submitted=n_jobs)
    found = simulate([[Job(start=seconds)]] * n_jobs, cluster, seed=1)
    expected = (math.exp(rate * seconds) - 1) / rate
    assert found.seconds / n_jobs == pytest.approx(expected, rel=0.05)
    assert found.failed / n_jobs == pytest.approx(math.e - 1, rel=0.05)
    assert found.spent["start"] == pytest.approx(n_jobs * seconds)
    assert found.spent["lost"] + found.spent["start"] == pytest.approx(found.seconds)


def test_jobs_that_never_end_are_told_and_not_waited_for():
    """Of 100,000 s on nodes that fail every 1,000 s: one attempt in exp(100) would end."""
    with pytest.raises(MicrotomeError, match="days_between_failures: nodes fail before their jobs"):
        simulate([[Job(start=100_000)]] * 3, Cluster(2, failures=1 / 1000))


def test_a_failure_costs_no_job_and_a_node_comes_back():
    jobs = [[Job(start=10, read=500, compute=100, write=50)]] * 200
    cluster = Cluster(8, link=10, failures=1 / 2000, repair=300, requeue=120)
    found = simulate(jobs, cluster, seed=3)
    assert found.failed > 10
    assert found.spent["compute"] == pytest.approx(200 * 100)
    assert found.spent["start"] == pytest.approx(200 * 10)
    assert sum(found.spent.values()) == pytest.approx(8 * found.seconds)
    assert found.spent["read"] == pytest.approx(200 * 500 / 10)
    assert found.spent["write"] == pytest.approx(200 * 50 / 10)
    assert found.seconds > simulate(jobs, Cluster(8, link=10)).seconds == 25 * (10 + 50 + 100 + 5)


def test_the_same_seed_makes_the_same_schedule():
    jobs = [[Job(start=10, read=500, compute=100)]] * 50
    cluster = Cluster(4, link=10, bandwidth=20, failures=1 / 1000)
    assert simulate(jobs, cluster, seed=5) == simulate(jobs, cluster, seed=5)
    assert simulate(jobs, cluster, seed=5) != simulate(jobs, cluster, seed=6)
