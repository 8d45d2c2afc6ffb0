"""Bytes of a text file to text: UTF-8 where it is UTF-8, else the encoding that fits, and a note of which.

In order: a byte-order mark; UTF-8; UTF-8 with a few damaged bytes; what the file declares (HTML); a guess by
charset-normalizer. Code pages of the Latin alphabet look alike to it (it reads French as windows-1257), so among those
the language decides, which py3langid tells from the letters that all of them share.
"""

from __future__ import annotations

import codecs

from ftmeta.synthesis.formats import CannotRead, needs_extra

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = {
    b"%PDF-": "a PDF; rename it to .pdf",
    b"PK\x03\x04": "a ZIP archive or an office document; unpack it, or export it as PDF or HTML",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"\xd0\xcf\x11\xe0": "an old office document; export it as PDF or HTML",
}
# One code page for each family: charset-normalizer otherwise prefers rarities such as mac_iceland.
_CANDIDATES = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "iso8859_2", "iso8859_5", "koi8_r",
    "cp866", "cp850", "mac_roman", "cp932", "euc_jp", "gb18030", "big5", "cp949",
]  # fmt: skip
_LATIN = frozenset({"cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2"})
_CENTRAL_EUROPEAN = frozenset({"pl", "cs", "sk", "hu", "hr", "sl", "ro", "bs", "sq"})
_SPOKEN = {"cp932": "Shift-JIS", "cp949": "EUC-KR", "gb18030": "GB 18030", "big5": "Big5", "iso8859_1": "ISO 8859-1"}
_SAMPLE_BYTES = 200_000
_CONTROL = bytes(set(range(1, 32)) - set(b"\t\n\r\f\x1b"))  # without NUL, of which UTF-16 is full
_SAVE_AS_UTF8 = "save it as UTF-8, for example with iconv -f ENCODING -t UTF-8 OLD > NEW"


def decode(raw: bytes, declared: str | None = None) -> tuple[str, str | None]:
    """The text of `raw`, and how it was read where that was not UTF-8. `declared` is what the file says of itself.

    Raises CannotRead for what is not text.
    """
    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return _with_bom(raw, bom, encoding)
    _refuse_binary(raw)
    if b"\0" in raw:
        return _utf16_without_bom(raw)
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        with_marks = raw.decode("utf-8", "replace")
    damaged = with_marks.count("\ufffd")
    if damaged * 20 <= sum(not char.isascii() for char in with_marks) - damaged:
        return with_marks, f"read as UTF-8, {damaged} damaged character{'s' * (damaged > 1)}"
    for encoding in filter(None, (declared, _guess(raw))):
        text = _decoded(raw, encoding)
        if text is not None:
            return text, f"read as {_spoken(encoding)}"
    raise CannotRead(f"text in an encoding that could not be recognised; {_SAVE_AS_UTF8}")


def _with_bom(raw: bytes, bom: bytes, encoding: str) -> tuple[str, str | None]:
    text = raw.decode(encoding, "replace").removeprefix("\ufeff")
    if text.count("\ufffd") * 100 > len(text):
        raise CannotRead(f"it starts as {encoding.upper()} text, but is damaged; save it again as UTF-8")
    return text, None if bom == codecs.BOM_UTF8 else f"read as {encoding.upper()}"


def _refuse_binary(raw: bytes) -> None:
    for signature, what in _SIGNATURES.items():
        if raw.startswith(signature):
            raise CannotRead(f"not text by its first bytes but {what}")
    head = raw[:_SAMPLE_BYTES]
    if len(head) - len(head.translate(None, _CONTROL)) > max(4, 0.02 * len(head)):
        raise CannotRead("a binary file with the suffix of a text file; leave it out, or convert it to text")


def _utf16_without_bom(raw: bytes) -> tuple[str, str | None]:
    even, odd = raw[::2].count(b"\0"), raw[1::2].count(b"\0")
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros * 5 > len(raw) and others * 100 < zeros:  # two of five characters or more are Latin
            return raw.decode(encoding, "replace"), "read as UTF-16"
    raise CannotRead(
        f"a binary file with the suffix of a text file (it holds {even + odd} NUL bytes); leave it out, or if it is "
        f"text, {_SAVE_AS_UTF8}"
    )


def _guess(raw: bytes) -> str | None:
    with needs_extra():
        from charset_normalizer import from_bytes
    best = from_bytes(_telling_lines(raw), cp_isolation=_CANDIDATES).best()
    if best is None:
        return None
    return _latin_code_page(raw) if best.encoding in _LATIN else best.encoding


def _telling_lines(raw: bytes) -> bytes:
    """The first lines that are not plain ASCII: only they tell encodings apart."""
    lines: list[bytes] = []
    size = 0
    for line in raw.splitlines(keepends=True):
        if not line.isascii():
            lines.append(line[:_SAMPLE_BYTES])
            size += len(line)
            if size > _SAMPLE_BYTES:
                break
    return b"".join(lines)


def _latin_code_page(raw: bytes) -> str:
    with needs_extra():
        import py3langid
    language, _ = py3langid.classify(raw[:_SAMPLE_BYTES].decode("cp1252", "ignore"))
    if language in _CENTRAL_EUROPEAN:
        return "cp1250" if any(0x80 <= byte < 0xA0 for byte in raw[:_SAMPLE_BYTES]) else "iso8859_2"
    return {"tr": "cp1254", "az": "cp1254", "lt": "cp1257", "lv": "cp1257", "et": "cp1257"}.get(language, "cp1252")


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        text = raw.decode(encoding, "replace")
    except LookupError:  # a page can declare any name
        return None
    return text if text.count("\ufffd") * 100 <= len(text) else None


def _spoken(encoding: str) -> str:
    name = codecs.lookup(encoding).name.replace("-", "_")
    return _SPOKEN.get(name) or name.replace("cp125", "windows-125").replace("_", "-")
