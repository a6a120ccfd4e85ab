"""One thread: these networks are small enough, and threads that wait for each other are slow on a shared machine."""
import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
