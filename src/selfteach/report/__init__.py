"""Pages made from run folders: one HTML file each, which loads nothing and runs nothing of what models wrote."""

from selfteach.report.notebook import notebook_card
from selfteach.report.page import build_report, comparison_page

__all__ = ["build_report", "comparison_page", "notebook_card"]
