//! Paper numbers and grades, claims and verdicts, records, tables and figures: pure functions.
