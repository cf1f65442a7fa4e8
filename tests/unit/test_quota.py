"""Quotas: never more than the bucket and what flowed in, whatever is asked, settled or retried."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.access import TenantSettings
from server.bucket import Bucket
from server.errors import BadRequest, Forbidden, Overloaded, Rejected
from server.quota import TenantQuotas, Unmetered, quotas

SECOND = 10**9
MINUTE = 60 * SECOND


class Watch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def tenant(**changes) -> TenantSettings:
    values = {
        "requests_per_minute": 60,
        "tokens_per_minute": 6000,
        "concurrent_requests": 2,
        "models": ("qwen3",),
    }
    return TenantSettings(**(values | changes))


def metered(watch=None, **changes):
    return TenantQuotas({"acme": tenant(**changes)}, watch or Watch())


STEPS = st.lists(
    st.tuples(
        st.integers(0, 20 * SECOND),  # time that passes
        st.integers(1, 120),  # reserved
        st.integers(0, 100),  # of which used, in percent
        st.integers(0, 4),  # how many others begin before this one ends
    ),
    max_size=60,
)


class Ideal:
    """A bucket that knew from the start what each request uses: it goes through all again."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.taken: list[list[int]] = []

    def level(self, now: int) -> int:
        full = self.per_minute * MINUTE
        level, at = full, 0
        for when, amount in self.taken:
            level = min(full, level + (when - at) * self.per_minute) - amount * MINUTE
            at = when
        return min(full, level + (now - at) * self.per_minute)


@settings(max_examples=300)
@example(36, [(0, 8, 0, 1), (13_333_333_333, 1, 0, 2), (1_666_666_667, 30, 97, 0), (0, 16, 50, 0)])
@example(10, [(0, 10, 0, 1), (MINUTE, 10, 100, 0), (0, 1, 0, 0)])
@given(st.integers(1, 100), STEPS)
def test_between_any_two_moments_a_bucket_and_what_flowed_in_is_used_and_none_is_lost(
    per_minute, steps
):
    bucket, ideal = Bucket(per_minute, 0), Ideal(per_minute)
    now, running, used = 0, [], []
    for passes, reserved, percent, others in steps:
        now += passes
        if held := bucket.hold(reserved, now):
            spent = reserved * percent // 100
            ideal.taken.append([now, reserved])
            running.append((held, spent, ideal.taken[-1]))
            used.append((now, spent))
        while len(running) > others:
            held, spent, taken = running.pop((reserved + percent) % len(running))
            bucket.settle(held, spent, now)
            taken[1] = spent
        assert bucket.left(now) == ideal.level(now) // MINUTE
    for first, (begin, _) in enumerate(used):
        for last in range(first, len(used)):
            end = used[last][0]
            total = sum(spent for _, spent in used[first : last + 1])
            assert total * MINUTE <= per_minute * MINUTE + (end - begin) * per_minute


@settings(max_examples=200)
@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(0, MINUTE))
def test_the_wait_is_exact_to_the_nanosecond(per_minute, amount, passes):
    bucket = Bucket(per_minute, 0)
    assert bucket.spend(per_minute, 0)
    wait = bucket.wait(amount, passes)
    if wait == 0:
        assert amount * MINUTE <= passes * per_minute
    elif amount <= per_minute:
        assert not bucket.spend(amount, passes + wait - 1)
        assert bucket.spend(amount, passes + wait)


def test_a_refund_fills_no_bucket_beyond_its_brim():
    bucket = Bucket(10, 0)
    held = bucket.hold(10, 0)
    bucket.settle(held, 0, MINUTE)
    assert bucket.left(MINUTE) == 10
    assert bucket.full_in(MINUTE) == 0


def test_what_flowed_in_beside_a_long_request_is_not_lost():
    bucket = Bucket(10, 0)
    held = bucket.hold(10, 0)
    bucket.settle(held, 10, MINUTE)
    assert bucket.left(MINUTE) == 10


def test_what_cost_more_than_was_reserved_is_a_debt():
    bucket = Bucket(60, 0)
    bucket.settle(bucket.hold(10, 0), 90, 0)
    assert bucket.left(0) == 0
    assert not bucket.spend(1, 0)
    assert bucket.wait(1, 0) == 31 * SECOND


def test_a_clock_that_steps_back_drains_nothing_and_fills_nothing():
    bucket = Bucket(60, 100 * SECOND)
    assert bucket.spend(60, 100 * SECOND)
    assert bucket.wait(1, 0) == SECOND
    assert bucket.spend(1, 101 * SECOND)
    assert not bucket.spend(1, 101 * SECOND)


def refused(kind, code, act) -> Rejected:
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.code == code
    return caught.value


def enter(allowance) -> None:
    with allowance.place():
        pass


def test_a_tenant_has_so_many_places_and_gets_them_back():
    of = metered()
    with of.allowance("acme").place():
        with of.allowance("acme").place():
            refusal = refused(Overloaded, "tenant-busy", lambda: enter(of.allowance("acme")))
            assert refusal.retry_after == 1
        enter(of.allowance("acme"))
    assert dict(of.allowance("acme").headers())[b"x-ratelimit-remaining-requests"] == b"57"


def test_a_tenant_that_asks_too_often_is_told_when_to_ask_again():
    watch = Watch()
    of = metered(watch, requests_per_minute=2)
    enter(of.allowance("acme"))
    enter(of.allowance("acme"))
    refusal = refused(Overloaded, "rate_limit_exceeded", lambda: enter(of.allowance("acme")))
    assert refusal.retry_after == 30
    watch.now += 30 * SECOND
    enter(of.allowance("acme"))


def test_an_unlisted_tenant_is_refused_and_remembered_nowhere():
    of = metered()
    for number in range(1000):
        refused(Forbidden, "tenant-unknown", lambda n=number: of.allowance(f"t{n}"))
    assert len(of._tenants) == 1


def test_a_reservation_returns_what_was_not_used():
    of = metered()
    allowance = of.allowance("acme")
    allowance.reserve(5000)
    refused(Overloaded, "rate_limit_exceeded", lambda: of.allowance("acme").reserve(1001))
    allowance.settle(100)
    of.allowance("acme").reserve(5900)


def test_what_nobody_can_count_stays_spent_and_what_cost_nothing_comes_back():
    of = metered()
    for used, left in ((None, b"5000"), (0, b"5000"), (10, b"4990")):
        allowance = of.allowance("acme")
        allowance.reserve(1000)
        allowance.settle(used)
        assert dict(allowance.headers())[b"x-ratelimit-remaining-tokens"] == left


def test_a_request_that_no_minute_can_pay_is_not_asked_to_wait():
    refusal = refused(BadRequest, "over-quota", lambda: metered().allowance("acme").reserve(6001))
    assert refusal.retry_after is None


@pytest.mark.parametrize(
    ("tokens", "said"), [(0, b"0ms"), (1, b"10ms"), (150, b"1.5s"), (6000, b"1m0s")]
)
def test_headers_say_what_openai_says(tokens, said):
    allowance = metered().allowance("acme")
    if tokens:
        allowance.reserve(tokens)
    found = dict(allowance.headers())
    assert found[b"x-ratelimit-limit-tokens"] == b"6000"
    assert found[b"x-ratelimit-remaining-tokens"] == str(6000 - tokens).encode()
    assert found[b"x-ratelimit-reset-tokens"] == said
    assert found[b"x-ratelimit-limit-requests"] == b"60"
    assert found[b"x-ratelimit-reset-requests"] == b"0ms"


def test_without_a_list_of_tenants_nothing_is_metered():
    assert isinstance(quotas(None, Watch()), Unmetered)
    allowance = quotas(None, Watch()).allowance("anyone")
    allowance.reserve(10**12)
    enter(allowance)
    assert allowance.serves("any")
    assert allowance.headers() == ()
