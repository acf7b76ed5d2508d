"""Pages: one self-contained HTML document from its parts."""
