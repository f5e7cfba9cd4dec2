"""Result files as one document for people: a page, Markdown, CSV or pictures."""
