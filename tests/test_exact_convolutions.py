"""The setting that keeps scores on CUDA independent of their batch: set while any thread scores, and put back after."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spooftrace.exact_convolutions import ExactConvolutions, exact_convolutions


def precision() -> str:
    return torch.backends.cudnn.conv.fp32_precision


def test_it_is_set_inside_and_put_back_after_an_error_too():
    before = precision()
    assert before != "ieee"
    with pytest.raises(KeyError), exact_convolutions:
        assert precision() == "ieee"
        raise KeyError
    assert precision() == before


def test_the_last_thread_to_leave_puts_it_back():
    before, context = precision(), ExactConvolutions()
    entered, left = threading.Barrier(2), threading.Event()

    def first() -> None:
        with context:
            entered.wait(10)
        left.set()

    def last() -> str:
        with context:
            entered.wait(10)
            assert left.wait(10)
            return precision()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(last)
        assert one.result() is None and other.result() == "ieee"
    assert precision() == before
