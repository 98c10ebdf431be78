"""Record and control a training while it runs."""
