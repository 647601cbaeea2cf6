//! Any stream, annotated.
