"""The sources of the pretraining text: one file each, one line each in this table."""

from __future__ import annotations

from ftmeta.pretraining.document import Source
from ftmeta.pretraining.sources.apache import APACHE
from ftmeta.pretraining.sources.austen import AUSTEN
from ftmeta.pretraining.sources.django import DJANGO
from ftmeta.pretraining.sources.erlang import ERLANG
from ftmeta.pretraining.sources.moby_dick import MOBY_DICK
from ftmeta.pretraining.sources.nodejs import NODEJS
from ftmeta.pretraining.sources.rust import RUST
from ftmeta.pretraining.sources.speeches import SPEECHES
from ftmeta.pretraining.sources.web_bible import WEB_BIBLE
from ftmeta.pretraining.sources.wordnet import WORDNET

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        SPEECHES,
        MOBY_DICK,
        AUSTEN,
        WEB_BIBLE,
        WORDNET,
        ERLANG,
        DJANGO,
        RUST,
        APACHE,
        NODEJS,
    )
}
