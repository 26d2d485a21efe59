//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> **Ring** -> **Doorbell** -> Hook
//!
//! A single-producer single-consumer byte ring in shared memory, with a doorbell.
