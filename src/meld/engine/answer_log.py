"""What an endpoint has answered, kept line by line: nothing that was paid for is lost or asked again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meld.errors import UserError


class AnswerLog:
    """A file of answers by the digest of their questions, with what they cost.

    Every answer is appended and synchronised at once, so that a kill loses at most the one that is being written. A cap
    counts everything in the file: repeating a command does not spend it again.

    Args:
        file: JSON lines; made when the first answer comes.
        price_in: Price of a million tokens of questions.
        price_out: Price of a million tokens of answers.
        max_cost: What the answers in the file may cost together; None for no limit.
    """

    def __init__(self, file: Path, price_in: float, price_out: float, max_cost: float | None) -> None:
        self.file = file
        self._prices = (price_in, price_out)
        self._cap = max_cost
        self._lock = threading.Condition()
        self._known: dict[str, Mapping[str, Any]] = {}
        self._reserved = 0.0
        self.spent = 0.0
        self._whole = True
        if file.is_file():
            self._read()

    def _read(self) -> None:
        text = self.file.read_text(encoding="utf-8", errors="replace")
        # A line that a kill cut off is left as it is; what follows starts on a line of its own.
        self._whole = not text or text.endswith("\n")
        for entry in filter(None, map(_entry, text.split("\n"))):
            self._known[str(entry["key"])] = entry["reply"]
            self.spent += float(entry["cost"])

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The answer to a question; None if it has none yet."""
        return self._known.get(key)

    def reserve(self, tokens_in: float, tokens_out: float) -> float:
        """Set aside what a question will cost at most.

        Where only questions under way stand between it and the cap, it waits for what they really cost.

        Args:
            tokens_in: Its tokens, estimated.
            tokens_out: Tokens that the answer may have.

        Returns:
            The amount, for :meth:`keep` or :meth:`release`.

        Raises:
            UserError: If the cap would be exceeded.
        """
        amount = self._cost(tokens_in, tokens_out)
        with self._lock:
            while self._cap is not None and self._reserved > 0 and self.spent + self._reserved + amount > self._cap:
                self._lock.wait()
            if self._cap is not None and self.spent + self._reserved + amount > self._cap:
                raise UserError(
                    f"The cost cap is reached: {self.spent:.4f} of {self._cap:g} are spent, and the next question may "
                    f"cost {amount:.4f}. The {len(self._known)} answers so far are kept.",
                    where=f"engine.max_cost; answers in {self.file}",
                    fix="a higher engine.max_cost; the same command then asks only what is missing",
                )
            self._reserved += amount
        return amount

    def release(self, amount: float) -> None:
        """Give back what was set aside for a question that was not answered."""
        with self._lock:
            self._settle(amount)

    def keep(self, key: str, reply: Mapping[str, Any], usage: Mapping[str, Any], amount: float) -> None:
        """Write an answer.

        Args:
            key: Digest of the question.
            reply: What is needed of the answer.
            usage: Its ``prompt_tokens`` and ``completion_tokens``, as the endpoint counted them.
            amount: What was set aside for it.
        """
        counts = [float(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        cost = self._cost(*counts)
        line = json.dumps({"key": key, "reply": reply, "cost": cost, "usage": counts}) + "\n"
        with self._lock:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(line if self._whole else "\n" + line)
                stream.flush()
                os.fsync(stream.fileno())
            self._whole = True
            self._known[key] = reply
            self.spent += cost
            self._settle(amount)

    def _settle(self, amount: float) -> None:
        # Sums of amounts that come and go need not end at zero exactly.
        self._reserved = self._reserved - amount if self._reserved - amount > 1e-12 else 0.0
        self._lock.notify_all()

    def _cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self._prices[0] + tokens_out * self._prices[1]) / 1e6


def _entry(line: str) -> dict[str, Any] | None:
    """What a line holds; None for one that was cut off."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"key", "reply", "cost"} <= set(entry) else None
