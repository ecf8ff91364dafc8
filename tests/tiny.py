"""Sizes of the synthetic suite at which a whole run takes seconds; every stage still has something to do."""

from __future__ import annotations

SIZES = (
    "datasets.quickstart_products.n_rows=24",
    "datasets.quickstart_products.n_train=40",
    "datasets.quickstart_products.n_test=12",
    "datasets.quickstart_products.n_few_shot=20",
    "datasets.quickstart_people.n_rows=30",
    "datasets.quickstart_people.n_test=8",
    "datasets.quickstart_people.n_few_shot=12",
    "datasets.quickstart_hospitals.n_rows=24",
    "datasets.quickstart_hospitals.n_few_shot=8",
)
