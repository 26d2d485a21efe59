//! What the requests of all sessions share; `services.rs` puts it together.

pub(crate) mod branches;
pub(crate) mod broadcasts;
pub(crate) mod catch_up;
pub(crate) mod counters;
pub(crate) mod differences;
pub(crate) mod exporter;
pub(crate) mod healing;
pub(crate) mod holds;
pub(crate) mod jobs;
pub(crate) mod maintenance;
pub(crate) mod pending_deletes;
pub(crate) mod project;
pub(crate) mod refills;
pub(crate) mod registrations;
pub(crate) mod services;
pub(crate) mod session_list;
pub(crate) mod stops;
pub(crate) mod tokens;
