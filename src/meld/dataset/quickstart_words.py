"""The made-up words of the quickstart sets: no brand, town or person here exists.

Everything is data for ``meld.dataset.quickstart``; the lists are short on purpose, so that values repeat and can be
learnt from few labels.
"""

from __future__ import annotations

from typing import NamedTuple


class Category(NamedTuple):
    """A kind of product.

    Attributes:
        noun: Its name.
        features: Words of which a product has two or three.
        sizes: Sizes, one per product.
        price: Typical price, in whole units of money.
    """

    noun: str
    features: tuple[str, ...]
    sizes: tuple[str, ...]
    price: int


BRANDS = ("Norvex", "Talunda", "Kestrone", "Ambrix", "Solvaro", "Pellton", "Yurika", "Dravane", "Orbessa", "Quillon")
LINES = ("Aero", "Pulse", "Strata", "Vivid", "Halo", "Summit", "Breeze", "Cobalt")
COLOURS = ("black", "white", "silver", "red", "blue", "graphite")
CATEGORIES = (
    Category(
        "headphones",
        ("wireless", "noise cancelling", "over-ear", "foldable", "bluetooth"),
        ("30 h", "40 h", "24 h"),
        140,
    ),
    Category(
        "router", ("wireless", "dual band", "gigabit", "mesh", "parental control"), ("4 port", "5 port", "8 port"), 95
    ),
    Category(
        "blender",
        ("stainless steel", "high speed", "dishwasher safe", "portable", "quiet"),
        ("1.5 litre", "2 litre", "0.8 litre"),
        80,
    ),
    Category(
        "kettle",
        ("cordless", "stainless steel", "temperature control", "keep warm", "quiet"),
        ("1.7 litre", "1.2 litre"),
        45,
    ),
    Category(
        "monitor",
        ("curved", "full hd", "height adjustable", "anti glare", "usb-c"),
        ("24 inch", "27 inch", "32 inch"),
        260,
    ),
    Category(
        "printer",
        ("wireless", "duplex", "colour laser", "automatic feeder", "network"),
        ("20 ppm", "28 ppm", "35 ppm"),
        210,
    ),
    Category(
        "camera",
        ("digital", "water resistant", "image stabilisation", "wide angle", "compact"),
        ("12 megapixel", "20 megapixel"),
        330,
    ),
    Category(
        "speaker",
        ("portable", "bluetooth", "water resistant", "stereo", "voice control"),
        ("10 watt", "20 watt", "40 watt"),
        70,
    ),
)
ABBREVIATIONS = {
    "wireless": "wl",
    "stainless": "ss",
    "steel": "stl",
    "bluetooth": "bt",
    "digital": "dig",
    "portable": "port.",
    "automatic": "auto",
    "resistant": "res.",
    "cancelling": "canc.",
    "headphones": "headph.",
    "litre": "l",
    "inch": "in",
    "megapixel": "mp",
    "watt": "w",
    "black": "blk",
    "white": "wht",
    "silver": "slv",
    "graphite": "gra",
}

FIRST_NAMES = (
    "Mara",
    "Tobin",
    "Elke",
    "Jorun",
    "Sanna",
    "Petrik",
    "Lioba",
    "Anselm",
    "Ottoline",
    "Ravi",
    "Imke",
    "Dario",
    "Noor",
    "Felix",
)
LAST_NAMES = (
    "Harlow",
    "Venn",
    "Castel",
    "Brook",
    "Ostrander",
    "Lindqvist",
    "Marrow",
    "Tessaro",
    "Quade",
    "Fenwick",
    "Abara",
    "Solis",
)
STREETS = (
    "Alder",
    "Quarry",
    "Harbour",
    "Mill",
    "Chapel",
    "Orchard",
    "Station",
    "Meadow",
    "Foundry",
    "Lantern",
    "Juniper",
    "Weir",
)
STREET_KINDS = {"Street": "St.", "Avenue": "Ave.", "Lane": "Ln.", "Road": "Rd."}


class State(NamedTuple):
    """A made-up state.

    Attributes:
        name: Its short name.
        area: The area code of its telephones.
        zip_prefix: The first two digits of its zip codes; leading zeros are meant.
        towns: Its towns, the largest first.
    """

    name: str
    area: str
    zip_prefix: str
    towns: tuple[str, ...]


STATES = (
    State("WM", "204", "04", ("Eastmere", "Calder Falls", "Pinehollow", "Brackwater")),
    State("SO", "317", "17", ("Port Ansel", "Willowick", "Tamsin")),
    State("NV", "432", "32", ("Graymoor", "Dunmarrow", "Kettleby", "Saint Oriel")),
    State("LK", "568", "56", ("Lakemont", "Osprey Bay", "Fennimore")),
    State("HR", "619", "61", ("Harrowgate", "Stonecross", "Vellum Springs")),
)

CLINIC_KINDS = ("general hospital", "medical center", "community hospital", "memorial clinic")
CLINIC_NAMES = (
    "st. brannoc",
    "riverside",
    "highfield",
    "cedar grove",
    "mercy point",
    "oakridge",
    "three bridges",
    "northgate",
)
COUNTIES = {
    "eastmere": "alden",
    "calder falls": "alden",
    "port ansel": "mossley",
    "willowick": "mossley",
    "graymoor": "tarn",
    "dunmarrow": "tarn",
    "lakemont": "everill",
    "harrowgate": "pell",
    "stonecross": "pell",
}
MEASURES = {
    "hf-1": "heart failure patients given discharge instructions",
    "hf-2": "heart failure patients given a function test",
    "pn-3": "pneumonia patients given oxygen assessment",
    "pn-5": "pneumonia patients given antibiotics in time",
    "sx-1": "surgery patients given antibiotics before surgery",
    "sx-4": "surgery patients kept warm after surgery",
}
