"""What of the documentation of PostgreSQL and SQLite becomes questions and answers, on entries hard to read."""

from __future__ import annotations

from pathlib import Path

from ftmeta.tasks.assemble import Fact
from ftmeta.tasks.sources.databases import facts

_SETTINGS = """<dl><dt id="GUC-X"><span class="term"><code class="varname">statement_timeout</code> (<code>int</code>)
</span></dt><dd><p>Abort any statement that takes more than the specified amount of time. If this value is specified
without units, it is taken as milliseconds. A value of zero (the default) disables the timeout.</p></dd>
<dt id="GUC-Y"><span class="term"><code class="varname">row_security</code> (<code>boolean</code>)</span></dt><dd><p>
This variable controls whether to raise an error in lieu of applying a row security policy. The default is
<code>on</code>.</p></dd>
<dt id="GUC-Z"><span class="term"><code class="varname">shared_buffers</code> (<code>integer</code>)</span></dt><dd><p>
See above for the memory of the server. The default is typically 128 megabytes (<code>128MB</code>).</p></dd></dl>"""
_FUNCTION = """<td class="func_table_entry"><p class="func_signature"><code class="function">{}</code> ( x )</p>
<p>{}</p></td>"""
_FUNCTIONS = (
    ("network", "Returns the network part of the address (see <a>Table 9.40</a>)."),
    ("length", "Returns the number of bytes in the binary string."),
    ("length", "Returns the number of characters in the string."),
    ("pg_has_role", "Does user have any of the privileges for role?"),
)
_COLUMNS = """<p class="title"><strong>Table 1.<code class="structname">pg_class</code> Columns</strong></p><table>
<td><code class="structfield">relam</code> <code>oid</code></p> <p>The access method used for table storage</p></td>
<td><code class="structfield">kind</code> <code>char</code></p> <p>r for a table, i for an index, v for a view</p></td>
</table>"""
_CODES = """<h3>(5) SQLITE_BUSY</h3><p>The SQLITE_BUSY result code means that the file could not be written.<p>More."""


def _facts(folder: Path) -> dict[str, Fact]:
    for path, text in (
        ("postgresql-doc-15/html/runtime-config-client.html", _SETTINGS),
        ("postgresql-doc-15/html/functions-net.html", "".join(_FUNCTION.format(*one) for one in _FUNCTIONS)),
        ("postgresql-doc-15/html/catalog-pg-class.html", _COLUMNS),
        ("sqlite3/rescode.html", _CODES),
    ):
        page = folder / "usr" / "share" / "doc" / path
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    return {fact.key: fact for fact in facts(folder)}


def test_answers_are_whole_and_point_nowhere_else(tmp_path: Path) -> None:
    assert {key: fact.questions[0][1] for key, fact in _facts(tmp_path).items()} == {
        "statement_timeout/setting": "Aborts any statement that takes more than the specified amount of time.",
        "statement_timeout/unit": "milliseconds",
        "statement_timeout/default": "zero",
        "row_security/setting": "Controls whether to raise an error in lieu of applying a row security policy.",
        "row_security/default": "on",
        "shared_buffers/default": "128 megabytes",
        "network/function": "Returns the network part of the address.",
        "pg_class.relam/column": "The access method used for table storage.",
        "SQLITE_BUSY/result-code": "The SQLITE_BUSY result code means that the file could not be written.",
        "SQLITE_BUSY/result-number": "5",
    }


def test_reverse_questions_are_sentences_that_do_not_name_the_answer(tmp_path: Path) -> None:
    found = _facts(tmp_path)
    reverse = {key: [one for one in fact.questions if one[1] in key] for key, fact in found.items()}
    assert reverse["row_security/setting"] == []  # its sentence says "row security"
    assert reverse["network/function"] == []
    assert reverse["pg_class.relam/column"] == [
        ("Which column of pg_class holds the access method used for table storage?", "relam")
    ]
    assert reverse["SQLITE_BUSY/result-code"] == [
        ("Which result code of SQLite means that the file could not be written?", "SQLITE_BUSY")
    ]
