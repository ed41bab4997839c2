"""The page that a reader opens: studies with their figures, captions, tables and provenance."""
