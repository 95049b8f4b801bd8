"""Layouts, plans and launches; it knows artifacts and never the IR."""
