import pytest
import ray


@pytest.fixture(scope="session")
def local_ray():
    ray.init(num_cpus=8, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
