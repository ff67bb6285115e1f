"""Pages made from run folders: one HTML file each, which loads nothing and runs nothing of what models wrote."""

from selfteach.report.comparison import comparison_page
from selfteach.report.notebook import notebook_card
from selfteach.report.page import build_report
from selfteach.report.results import read_results

__all__ = ["build_report", "comparison_page", "notebook_card", "read_results"]
