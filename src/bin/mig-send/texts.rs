//! The long texts of mig-send.
