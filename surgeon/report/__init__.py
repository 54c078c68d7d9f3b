"""One HTML page about a run, or about several beside each other."""

from surgeon.report.build import Report, check_outputs, make_report, write_report
from surgeon.report.comparison import read_records
from surgeon.report.networks import Files

__all__ = ["Files", "Report", "check_outputs", "make_report", "read_records", "write_report"]
