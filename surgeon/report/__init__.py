"""One HTML page about a run, or about several beside each other."""

from surgeon.report.build import Report, make_report, write_report
from surgeon.report.networks import Files
from surgeon.report.records import Run, read_record

__all__ = ["Files", "Report", "Run", "make_report", "read_record", "write_report"]
