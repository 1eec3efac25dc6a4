"""The report: one HTML file that works offline. `build.write_report` makes it; `sections` decides what it holds."""
