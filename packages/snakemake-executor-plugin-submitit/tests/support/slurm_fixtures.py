"""Fixtures that start a real Slurm. Without Slurm the tests skip, unless REQUIRE_SLURM=1 makes that an error."""

import pytest

from cluster import Cluster, require


@pytest.fixture(scope="session")
def running_without_accounting():
    """One cluster for the whole session: its start takes seconds."""
    require()
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def running(running_without_accounting):
    """A cluster without accounting for a whole file of tests; the next file finds its first settings again."""
    cluster = running_without_accounting
    settings = cluster.settings
    yield cluster
    cluster.clear()
    if cluster.settings != settings:
        cluster.restart_controller(**vars(settings))


@pytest.fixture
def cluster(running):
    """A cluster without accounting, both nodes idle, signals on; left empty for the next test."""
    yield running
    running.clear()


@pytest.fixture(scope="session")
def running_with_accounting():
    """One cluster with slurmdbd and MariaDB for the whole session: its start takes ten seconds."""
    require(accounting=True)
    with Cluster(accounting=True) as cluster:
        yield cluster


@pytest.fixture
def cluster_with_accounting(running_with_accounting):
    """A cluster with accounting, both nodes idle; left empty for the next test."""
    yield running_with_accounting
    running_with_accounting.clear()
