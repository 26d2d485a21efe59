//! actor -> FsCore operation -> Event -> **Router** -> **Synthesizer** -> Ring -> Doorbell -> Hook
//!
//! The watch service, the control server and the `agentfs` program.
