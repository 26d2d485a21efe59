//! actor -> FsCore operation -> Event -> **Router** -> **Synthesizer** -> Ring -> Doorbell -> Hook
//!
//! The watch service, the control server and the `agentfs` program.
//!
//! [`server`] joins them: it takes connections, carries out what they ask, and gives back what they
//! had. [`cli`] is the program.

pub mod cli;
pub mod server;
