"""Question-answer tasks of one's own documents, by a language model (`ftmeta tasks synthesize`)."""
