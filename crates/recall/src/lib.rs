//! Associative recall: a table's rows to measured cells.
