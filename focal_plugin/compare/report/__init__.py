"""What a comparison has found, as a page, tables and figures."""

from .tables import terminal_table
from .write import ReportFiles, write_report

__all__ = ["ReportFiles", "terminal_table", "write_report"]
