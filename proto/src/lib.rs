//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> **Ring** -> Doorbell -> Hook
//!
//! What crosses the process boundary: the event record and the control protocol.
