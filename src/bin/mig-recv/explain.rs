//! `--explain`.
