"""Pages for people that need no script and no network: their texts, tables, figures and look."""
