//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! FsCore over FUSE.
