"""Likely personal data in text: what people should look for before a model learns it by heart.

In: a text. Out: what was found, by kind. Each kind is one line of KINDS: a pattern and, because patterns alone cry
wolf, a test such as a checksum (IBAN: ISO 13616; cards: Luhn, ISO/IEC 7812; national ids: each country's own). Names
and postal addresses are not looked for. To add a kind, add a line; test_personal.py wants examples of it.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """`name` in the plural, as it stands in messages; `is_real` looks at a match and what is around it."""

    name: str
    pattern: re.Pattern[str]
    is_real: Callable[[re.Match[str]], bool]


def find_personal(text: str) -> list[tuple[str, str]]:
    """(kind, text) of everything that looks like personal data; what several kinds match counts for the first."""
    return [(kind.name, match[0]) for kind, match in _matches(text)]


def mask(text: str) -> str:
    """The text with personal data made unreadable: of each find the first letter or digit stays."""
    for _, match in sorted(_matches(text), key=lambda found: -found[1].start()):
        first = re.search(r"\w", match[0])
        keep = first.end() if first else 0
        text = text[: match.start()] + match[0][:keep] + re.sub(r"\w", "*", match[0][keep:]) + text[match.end() :]
    return text


def _matches(text: str) -> list[tuple[Kind, re.Match[str]]]:
    if not _POSSIBLE.search(text):
        return []
    found: list[tuple[Kind, re.Match[str]]] = []
    for kind in KINDS:
        for match in kind.pattern.finditer(text):
            free = all(match.end() <= other.start() or other.end() <= match.start() for _, other in found)
            if free and kind.is_real(match):
                found.append((kind, match))
    return found


_POSSIBLE = re.compile(r"@|(?:\d\D{0,3}){5}|[0-9a-f]::?[0-9a-f]", re.IGNORECASE)  # nothing below matches without


def _is_address(match: re.Match[str]) -> bool:
    local, _, domain = match[0].lower().rpartition("@")
    ending = domain.rpartition(".")[2]
    reserved = re.search(r"(?:^|\.)(?:example|test|invalid|localhost)(?:\.(?:com|org|net|edu))?$", domain)  # RFC 2606
    return not (
        reserved
        or local in {"git", "user", "username", "you", "name", "noreply", "no-reply", "postmaster"}
        or ending in {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "ts", "py", "css"}  # icon@2x.png
    )


def _is_phone(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    if not 8 <= len(digits) <= 15 or re.search(r"(\d)\1{4}", digits):
        return False
    return not re.search(r"55501\d\d$", digits)  # the numbers that films use


def _is_international(match: re.Match[str]) -> bool:
    return _is_phone(match) and (bool(re.search(r"[ .()/-]", match[0])) or len(_digits(match[0])) >= 10)


def _is_iban(match: re.Match[str]) -> bool:
    text = match[0].replace(" ", "")
    number = "".join(str(int(character, 36)) for character in text[4:] + text[:4])
    return 15 <= len(text) <= 34 and int(number) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    issued = re.match(
        r"4(?:\d{12}|\d{15}|\d{18})$|5[1-5]\d{14}$|2[2-7]\d{14}$|3[47]\d{13}$|(?:6011|65\d\d|35\d\d)\d{12}$", digits
    )
    return bool(issued) and _luhn(digits) and not re.search(r"(\d)\1{7}", digits)


def _is_ip_address(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    before = match.string[max(0, match.start() - 16) : match.start()]
    if not address.is_global or re.search(r"(?:version|release|section|chapter|§) ?$", before, re.IGNORECASE):
        return False
    # Numbers of sections and versions are small, and what ends in 0 is a network.
    return address.version == 6 or (max(address.packed) >= 20 and address.packed[-1] not in {0, 255})


def _is_spanish(match: re.Match[str]) -> bool:
    number = match[0].replace("-", "")[:-1].translate(str.maketrans("XYZ", "012"))
    return len(number) == 8 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == match[0][-1]


def _is_italian(match: re.Match[str]) -> bool:
    odd = dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True))
    odd |= dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _ITALIAN, strict=True))
    body = match[0][:-1]
    even = sum(int(one) if one.isdigit() else ord(one) - 65 for one in body[1::2])
    return chr(65 + (sum(odd[one] for one in body[::2]) + even) % 26) == match[0][-1]


_ITALIAN = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def _is_french(match: re.Match[str]) -> bool:
    digits = _digits(match[0].replace("2A", "19").replace("2B", "18"))
    return len(digits) == 15 and 97 - int(digits[:13]) % 97 == int(digits[13:])


def _is_brazilian(match: re.Match[str]) -> bool:
    digits = [int(one) for one in _digits(match[0])]
    checks = [
        (10 * sum(one * weight for one, weight in zip(digits, range(count + 1, 1, -1), strict=False))) % 11 % 10
        for count in (9, 10)
    ]
    return checks == digits[9:] and len(set(digits)) > 1


def _is_polish(match: re.Match[str]) -> bool:
    digits = [int(one) for one in match[0]]
    month = (digits[2] * 10 + digits[3]) % 20
    weighted = sum(one * weight for one, weight in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=False))
    return _is_date(2000 + int(match[0][:2]), month, int(match[0][4:6])) and -weighted % 10 == digits[10]


def _is_german(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    product = 10
    for one in digits[:10]:
        product = ((int(one) + product) % 10 or 10) * 2 % 11
    repeated = sorted(digits.count(one, 0, 10) for one in set(digits[:10]))[-2:]  # one digit twice or thrice
    return (11 - product) % 10 == int(digits[10]) and repeated[-1] in {2, 3} and repeated[0] <= 1


def _is_finnish(match: re.Match[str]) -> bool:
    number = int(match[0][:6] + match[0][7:10])
    return (
        _is_date(2000 + int(match[0][4:6]), int(match[0][2:4]), int(match[0][:2]))
        and "0123456789ABCDEFHJKLMNPRSTUVWXY"[number % 31] == match[0][10]
    )


def _is_swedish(match: re.Match[str]) -> bool:
    digits = _digits(match[0])[-10:]
    return _is_date(2000 + int(digits[:2]), int(digits[2:4]), int(digits[4:6])) and _luhn(digits)


def _is_chinese(match: re.Match[str]) -> bool:
    text = match[0]
    weighted = sum(int(one) * 2 ** (17 - index) for index, one in enumerate(text[:17]))
    return _is_date(int(text[6:10]), int(text[10:12]), int(text[12:14])) and "10X98765432"[weighted % 11] == text[17]


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _luhn(digits: str) -> bool:
    doubled = [int(one) * (1 + index % 2) for index, one in enumerate(reversed(digits))]
    return sum(one // 10 + one % 10 for one in doubled) % 10 == 0


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def _any(_: re.Match[str]) -> bool:
    return True


KINDS = tuple(
    Kind(name, re.compile(pattern), is_real)
    for name, pattern, is_real in (
        ("e-mail addresses", r"(?<![\w.+-])[\w.+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])", _is_address),
        ("IBANs", r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?\d[A-Z0-9]{0,2})?(?!\w)", _is_iban),
        ("credit card numbers", r"(?<![\w.-])(?:\d{13,19}|(?:\d{4}[ -]){3}\d{4})(?![\w-]|\.\d)", _is_card),
        ("credit card numbers", r"(?<![\w.-])\d{4}[ -]\d{6}[ -]\d{5}(?![\w-]|\.\d)", _is_card),
        ("national ids (Italy)", r"\b[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]\b", _is_italian),
        ("national ids (Spain)", r"\b(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z]\b", _is_spanish),
        ("national ids (France)", r"\b[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?\d[\dAB] ?\d{3} ?\d{3} ?\d\d\b", _is_french),
        ("national ids (Brazil)", r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b", _is_brazilian),
        ("national ids (China)", r"\b\d{17}[\dX]\b", _is_chinese),
        ("national ids (Poland)", r"(?<![\w.-])\d{11}(?![\w-]|\.\d)", _is_polish),
        ("national ids (Germany)", r"(?<![\w.-])[1-9]\d(?:\d{9}| \d{3} \d{3} \d{3})(?![\w-]|\.\d)", _is_german),
        ("national ids (Finland)", r"\b\d{6}[-+A]\d{3}[0-9A-FHJ-NPR-Y]\b", _is_finnish),
        ("national ids (Sweden)", r"(?<![\w-])(?:19|20)?\d{6}[-+]\d{4}(?![\w-])", _is_swedish),
        ("national ids (USA)", r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])", _any),
        ("phone numbers", r"(?<![\w+.-])\+[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,6}(?![\w-]|\.\d)", _is_international),
        ("phone numbers", r"(?<![\w+.-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-.]\d{4}(?![\w-]|\.\d)", _is_phone),
        ("phone numbers", r"(?i)(?<!\w)(?:tel|phone|fon|mobile?)[.:]{0,2} ?\(?0\d[\d ()./-]{5,}\d(?!\w)", _is_phone),
        ("IP addresses", r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d|/\d)", _is_ip_address),
        ("IP addresses", r"(?i)(?<![\w:.])[23][0-9a-f]{3}(?:::?[0-9a-f]{1,4}){2,7}(?![\w:.])", _is_ip_address),
    )
)
