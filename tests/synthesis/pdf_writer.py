"""Tiny PDFs for tests: pages of text lines, images and broken parts, written object by object (ISO 32000-1, 7.5)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

FONTS = ("Helvetica", "Courier", "Spaceless")
# Which characters the two-byte codes of the spaceless font show: all of ASCII but the space, as XeTeX writes it.
_TO_UNICODE = b"""/CIDInit /ProcSet findresource begin
begincmap
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
1 beginbfrange
<0021> <007E> <0021>
endbfrange
endcmap
end"""


@dataclass(frozen=True)
class At:
    """A line of text that begins at (`x`, `y`) points from the lower left corner of the page."""

    x: float
    y: float
    text: str
    size: float = 10.0
    font: str = "Helvetica"


def column(lines: list[str], *, x: float = 72, top: float = 740, size: float = 10, leading: float = 12) -> list[At]:
    """Lines below each other; an empty one leaves the room of a line."""
    return [At(x, top - number * leading, line, size) for number, line in enumerate(lines) if line]


def pdf_of(*pages: list[At]) -> bytes:
    return pdf_of_contents(*(_content(page) for page in pages))


def scanned_pdf(page_count: int) -> bytes:
    return pdf_of_contents(*[b"q 600 0 0 800 0 0 cm /Im Do Q"] * page_count)


def pdf_of_contents(*contents: bytes) -> bytes:
    """Pages with these content streams, compressed; each knows the fonts, and if it shows it an image `/Im`."""
    fonts = " ".join(f"/{name} {3 + number} 0 R" for number, name in enumerate(FONTS))
    image_number = 3 + len(FONTS)
    first = image_number + 2
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(contents)} /Kids [{kids}] >>".encode(),
        *(
            f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>".encode()
            for name in FONTS[:2]
        ),
        f"<< /Type /Font /Subtype /Type0 /BaseFont /Spaceless /Encoding /Identity-H /ToUnicode {image_number + 1} 0 R "
        "/DescendantFonts [<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Spaceless /W [32 126 600] >>] >>".encode(),
        _stream(
            b"\x80", "/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8"
        ),
        _stream(_TO_UNICODE, ""),
    ]
    for number, content in enumerate(contents):
        image = f"/XObject << /Im {image_number} 0 R >>" if b"/Im" in content else ""
        resources = f"<< /Font << {fonts} >> {image} >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources {resources} "
            f"/Contents {first + 2 * number + 1} 0 R >>".encode()
        )
        objects.append(_stream(zlib.compress(content), "/Filter /FlateDecode"))
    return _assembled(objects)


def _content(page: list[At]) -> bytes:
    shown = (f"BT /{line.font} {line.size} Tf {line.x} {line.y} Td ({_escaped(line.text)}) Tj ET" for line in page)
    return "\n".join(shown).encode("cp1252")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _stream(data: bytes, entries: str) -> bytes:
    return f"<< {entries} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream"


def _assembled(objects: list[bytes]) -> bytes:
    file = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(file))
        file += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    xref = len(file)
    file += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    file += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    file += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{xref}\n%%EOF\n".encode()
    return bytes(file)
