"""Use of a trained run: boxes on images, and export of its detector."""
