"""Reading the words behind a verb: wrong ones are errors for the user like any other."""

from __future__ import annotations

import argparse
from typing import NoReturn

from meld.errors import UserError


class Words(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.prog}: {message}", fix=f"{self.prog} --help lists what it takes")
