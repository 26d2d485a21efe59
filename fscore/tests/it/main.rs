//! Behaviour of the filesystem and of the events it tells.

mod basics;
mod behind_kernel;
