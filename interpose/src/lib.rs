//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> **Hook**
//!
//! The preloaded library.

pub mod kqueue;
