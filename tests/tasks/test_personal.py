"""Personal data: each kind finds its examples, nothing finds the near-misses, and masking leaves nothing to find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftmeta.tasks.check.personal import KINDS, find_personal, mask

# Numbers of standards, of public offices and of documentation; none is a person's.
EXAMPLES = {
    "e-mail addresses": ["write to jane.doe+shop@web.de.", "<a_b@mail.co.uk>"],
    "IBANs": [
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "FR1420041010050500013M02606",
        "to NO93 8601 1117 947.",
    ],
    "credit card numbers": ["4539 1488 0343 6467", "378282246310005", "3782 822463 10005", "6011-0009-9013-9424"],
    "national ids (Italy)": ["RSSMRA85T10A562S"],
    "national ids (Spain)": ["12345678Z", "X1234567L"],
    "national ids (France)": ["2 55 08 14 168 025 38", "255081416802538"],
    "national ids (Brazil)": ["529.982.247-25"],
    "national ids (China)": ["11010519491231002X"],
    "national ids (Poland)": ["44051401359"],
    "national ids (Germany)": ["86095742719", "47 036 892 816"],
    "national ids (Finland)": ["131052-308T"],
    "national ids (Sweden)": ["811228-9874", "19811228-9874"],
    "national ids (USA)": ["219-09-9999"],
    "phone numbers": [
        "+49 30 9018 2000",
        "+1 (650) 253-0000",
        "+442079460958",
        "(212) 736-5000",
        "call 212-736-5000 now",
        "Tel.: 030 901820-0",
    ],
    "IP addresses": ["from 85.214.132.117 at", "2a02:8070:d1:1::17", "2001:4860:4860:0:0:0:0:8888"],
}
NEAR_MISSES = [
    *("foo@example.com", "git@github.com:a/b.git", "icon@2x.png", "@decorator.name", "user@host"),
    *("DE89 3704 0044 0532 0130 01", "4539 1488 0343 6468", "86095742718", "44051401358", "811228-9873"),
    *("12345678A", "529.982.247-26", "RSSMRA85T10A562T", "11010519491231002Y", "131052-308U", "000-12-3456"),
    *("1.4142135623730951", "2**64 = 18446744073709551616", "0000000000000000", "1,234,567,890", "5 + 3333333333"),
    *("7440-57-5", "ISBN 978-3-16-148410-0", "2024-01-02 12:30:45", "20240102-1234", "123-456-789"),
    *("2 55 08 14 168 025 39", "850101"),
    *("(555) 555-0123", "+1 555-0123", "a +12345678", "+1,234.56", "1-800", "tel 5"),
    *("version 10.45.2.1", "1.3.6.1.4.1", "1.2.3.4", "127.0.0.1", "192.168.1.20", "192.0.2.44", "8.8.8.0"),
    *("5.10.200.0/24", "10:20:30:40", "std::vector::at", "dead::beef", "fe80::1", "2001:db8::1"),
]  # fmt: skip


def test_each_kind_has_examples() -> None:
    assert {kind.name for kind in KINDS} == set(EXAMPLES)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in EXAMPLES.items() for text in texts])
def test_examples_are_found_and_masked(kind: str, text: str) -> None:
    ((found, what),) = find_personal(f"{text}, and so on")
    assert found == kind
    assert what in text
    masked = mask(f"See {text}!")
    assert what not in masked
    assert find_personal(masked) == []
    assert len(masked) == len(f"See {text}!")


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_near_misses_are_not_found(text: str) -> None:
    assert find_personal(f"So {text} it is") == []
    assert mask(text) == text


@given(
    st.lists(st.sampled_from([text for texts in EXAMPLES.values() for text in texts]) | st.text(max_size=8), max_size=6)
)
def test_masking_leaves_nothing_to_find(parts: list[str]) -> None:
    text = " ; ".join(parts)
    masked = mask(text)
    assert len(masked) == len(text)
    assert all(what not in masked for _, what in find_personal(text))


@given(st.text(alphabet="0123456789 .-+()ABXZ@:a/٣", max_size=40))
def test_any_text(text: str) -> None:
    assert len(mask(text)) == len(text)
