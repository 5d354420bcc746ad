//! Shared flags, progress, exit codes and the skeleton of a reproduce binary.
