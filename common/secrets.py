"""Which secrets are none: well-known ones, and those that are made of words, sequences or repetitions.

A guess by measure, against mistakes and copied examples: what `openssl rand -base64 48` or `openssl rand -hex 32` gives
passes always. It can't tell that a strong secret has been published somewhere.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

SECRET_MIN_BYTES = 32

WELL_KNOWN_SECRETS = frozenset(
    {
        "secret",
        "changeme",
        "change-me",
        "password",
        "jwt-secret",
        "your-secret-key",
        "dev",
        "test",
        "supersecret",
        "your-256-bit-secret",
        "django-insecure",
        "keyboard cat",
        "hunter2",
        "letmein",
        "admin",
    }
)

# of which examples and stopgaps are made; whatever else is in a secret has to be enough
_WORDS = """
    a access admin administrator algorithm api app application at auth authentication azerty backend base64 bit bits
    bytes change changed changeit changeme char characters company config csrf database default demo dev development
    django do docker dummy encryption env example fake flask for from gateway generate here hmac hs256 hunter2 in
    insecure internal is it json jwt key keyboard cat least letmein local localhost long master me minimum must my
    need needs new node not of only or order orders pass passphrase password path placeholder please prod product
    production products qwerty qwertyuiop asdfghjkl zxcvbnm random real registry replace root safe sample secret
    secretkey secrets secure server service session sha256 shared should signing sample some staging string strong
    super supersecret temp test testing text the this to todo token unsafe use used user users value very web with
    word yes you your
"""
_KNOWN = re.compile(f"(?:{'|'.join(sorted(_WORDS.split(), key=len, reverse=True))})++")  # `supersecretkey` too

_LEAST_DISTINCT = 8
_LEAST_BITS = 80  # by how often each character stands there; 32 random digits have more


def why_weak(secret: str) -> str:
    """What is wrong with `secret`, "" for nothing; never a part of it."""
    text = secret.strip().lower()
    is_of_words = len(set(_beside_words(text))) < _LEAST_DISTINCT
    is_repetitive = _repeats(text) or _runs(text)
    if text not in WELL_KNOWN_SECRETS and not is_of_words and not is_repetitive:
        if len(secret.encode()) < SECRET_MIN_BYTES:
            return f"must have at least {SECRET_MIN_BYTES} bytes"
        if _bits(text) >= _LEAST_BITS:
            return ""
    return "is a well-known or repetitive secret"


def _beside_words(text: str) -> str:
    """What else is there; numbers and hyphens between words don't count."""
    rest = re.sub(r"[a-z]+", lambda found: "" if _KNOWN.fullmatch(found[0]) else found[0], text)
    return rest if len(rest) > len(text) / 2 else re.sub(r"[^a-z]", "", rest)


def _repeats(text: str) -> bool:
    """`abcdabcdabcd`: the same again and again, the last time perhaps not whole."""
    return any(text == (text[:period] * len(text))[: len(text)] for period in range(1, len(text) // 2 + 1))


def _runs(text: str) -> bool:
    """`0123456789abcdef`, `zyxw`, `aaaa`: most characters follow from the two before them."""
    steps = [ord(after) - ord(before) for before, after in pairwise(text)]
    return 2 * sum(step == last and abs(step) <= 1 for last, step in pairwise(steps)) > len(steps)


def _bits(text: str) -> float:
    """Shannon's entropy of the whole, by its own frequencies."""
    return -sum(count * math.log2(count / len(text)) for count in Counter(text).values())
