//! Prints the names that `RING_MUTANT` may have, one a line, each with the model that catches it.

/// The model that fails soonest with a mutant. `cargo xtask loom --mutants` runs it before the others,
/// so this table decides how long that takes, and nothing else: a mutant that its model does not
/// catch, or that has none here, is shown to all of them.
const CAUGHT_BY: &[(&str, &str)] = &[
    ("publish", "arm_versus_publish"),
    ("observe", "arm_versus_publish"),
    ("free", "full_then_refill"),
    ("reuse", "full_then_refill"),
    ("claim", "hand_over"),
    ("unclaim", "peek_and_hand_over"),
    ("publish_fence", "arm_versus_publish"),
    ("arm_fence", "arm_versus_publish"),
    ("release_fence", "coalesce_versus_release"),
    ("refill_fence", "full_then_refill"),
    ("unread_fence", "coalesce_versus_release"),
    ("request_publish", IN_ORDER),
    ("request_observe", IN_ORDER),
    ("request_free", IN_ORDER),
    ("request_reuse", IN_ORDER),
    ("request_lock", TWO_THREADS),
    ("request_unlock", TWO_THREADS),
    ("request_fence", MISSED_CHANGE),
    ("look_fence", MISSED_CHANGE),
];
const IN_ORDER: &str = "requests_arrive_whole_and_in_order_over_slots_used_again";
const TWO_THREADS: &str = "two_threads_of_a_program_send_without_losing_a_request";
const MISSED_CHANGE: &str = "a_program_that_missed_a_change_has_its_request_found";

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() {
    for mutant in agentfs_ring::ordering::MUTANTS {
        let model = CAUGHT_BY.iter().find(|(name, _)| name == mutant);
        println!("{mutant} {}", model.map_or("", |(_, model)| model));
    }
}
