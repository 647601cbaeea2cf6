//! The long texts of mig-recv.
