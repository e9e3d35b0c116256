"""Questions of two trades, finance and medicine, generated with exact answers, to tune adapters on.

Each trade has its own phrasing, so that an adapter for one is of no use for the other. The numbers
are drawn; the answers are computed. Nothing here is advice, and no text is anybody's.
"""

from collections.abc import Callable

import numpy as np

from labkit.data.chat import Message

Pair = tuple[str, str]
MOST = 1000  # of a trade: its templates have several times as many different questions


def finance(count: int, rng: np.random.Generator) -> list[list[Message]]:
    """Chats about interest, margins and dividends, no two of them alike.

    Args:
        count: chats wanted.
        rng: draws the template and the numbers.

    Raises:
        ValueError: more than `MOST` are wanted.
    """
    return _distinct((_interest, _margin, _dividend), count, rng)


def medical(count: int, rng: np.random.Generator) -> list[list[Message]]:
    """Chats about doses, infusions and fever; arguments as of `finance`."""
    return _distinct((_dose, _infusion, _fever), count, rng)


def _interest(rng: np.random.Generator) -> Pair:
    capital, rate, years = 100 * _draw(rng, 1, 90), _draw(rng, 1, 9), _draw(rng, 2, 12)
    return (
        f"A bond of {capital} euros pays {rate} percent simple interest a year. "
        f"What has it paid after {years} years?",
        f"Financial note: the interest income is {capital * rate * years // 100} euros, "
        f"the principal of {capital} euros not included.",
    )


def _margin(rng: np.random.Generator) -> Pair:
    revenue, costs = _draw(rng, 50, 99), _draw(rng, 10, 49)
    return (
        f"A company sells for {revenue} million euros and spends {costs} million. "
        "What is its operating result?",
        f"Financial note: the operating result is {revenue - costs} million euros, "
        f"on a revenue of {revenue} million euros.",
    )


def _dividend(rng: np.random.Generator) -> Pair:
    shares, cents = 10 * _draw(rng, 1, 90), 10 * _draw(rng, 1, 9)
    return (
        f"A fund holds {shares} shares, and each pays a dividend of {cents} cents. "
        "What does the fund receive?",
        f"Financial note: the dividend income is {shares * cents // 100} euros, "
        f"from {shares} shares.",
    )


def _dose(rng: np.random.Generator) -> Pair:
    weight, dose, times = _draw(rng, 10, 99), _draw(rng, 2, 9), _draw(rng, 2, 4)
    return (
        f"A patient of {weight} kg is to get {dose} mg per kg, {times} times a day. "
        "What is the daily dose?",
        f"Clinical note: the daily dose is {weight * dose * times} mg, "
        f"in {times} doses of {weight * dose} mg each.",
    )


def _infusion(rng: np.random.Generator) -> Pair:
    rate, hours = 10 * _draw(rng, 2, 20), _draw(rng, 2, 12)
    return (
        f"An infusion of {rate * hours} ml is to run for {hours} hours. At which rate does it run?",
        f"Clinical note: the infusion rate is {rate} ml per hour, for {hours} hours.",
    )


def _fever(rng: np.random.Generator) -> Pair:
    tenths = _draw(rng, 360, 410)
    reading = f"{tenths // 10}.{tenths % 10}"
    finding = "fever" if tenths >= 380 else "no fever"
    return (
        f"A patient's temperature is {reading} degrees Celsius. Is this a fever?",
        f"Clinical note: {finding}, at {reading} degrees Celsius with a threshold of 38.0 degrees.",
    )


def _draw(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _distinct(
    templates: tuple[Callable[[np.random.Generator], Pair], ...],
    count: int,
    rng: np.random.Generator,
) -> list[list[Message]]:
    if not 0 <= count <= MOST:
        raise ValueError(f"count={count} must lie between 0 and {MOST}")
    found: dict[str, str] = {}
    while len(found) < count:
        question, answer = templates[_draw(rng, 0, len(templates) - 1)](rng)
        found[question] = answer
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in found.items()
    ]
