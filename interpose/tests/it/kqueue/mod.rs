//! Tests the kevent hooks over the user-space kqueue: what the kernel posts and what the daemon
//! posts must look the same to the program.

mod calls;
mod descriptors;
mod flags;
mod gate;
mod layouts;
mod model;
mod programs;
mod reconnect;
mod support;
mod threads;
