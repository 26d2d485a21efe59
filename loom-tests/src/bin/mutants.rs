//! Prints the names that `RING_MUTANT` may have, one a line, each with the model that catches it.

/// The model that fails soonest with a mutant. `cargo xtask loom --mutants` runs it before the others,
/// so this table decides how long that takes, and nothing else: a mutant that its model does not
/// catch, or that has none here, is shown to all of them.
const CAUGHT_BY: &[(&str, &str)] = &[
    ("publish", "arm_versus_publish"),
    ("observe_fence", "arm_versus_publish"),
    ("free", "full_then_refill"),
    ("reuse", "full_then_refill"),
    ("claim", "hand_over"),
    ("unclaim", "peek_and_hand_over"),
    ("publish_fence", "arm_versus_publish"),
    ("arm_fence", "arm_versus_publish"),
    ("release_fence", "coalesce_versus_release"),
    ("refill_fence", "full_then_refill"),
    ("unread_fence", "coalesce_versus_release"),
    ("take", ONE_EACH),
    ("follow", ONE_EACH),
    ("recheck_fence", ONE_EACH),
    ("take_blindly", ONE_EACH),
    ("arm_backwards", STOPPED),
    ("sleep_unlooked", SWALLOWED),
    ("note_no_ring", SWALLOWED),
    ("ring_once", SLEEPER),
    ("cross_silently", WOKEN),
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
const ONE_EACH: &str = "of_two_readers_each_record_has_one_and_none_is_torn";
const SWALLOWED: &str = "a_bell_that_an_unhooked_reader_swallows_deafens_nobody";
const STOPPED: &str = "a_reader_that_is_killed_while_it_arms_takes_no_wake_up_away";
const SLEEPER: &str = "a_sleeper_whose_bell_was_swallowed_is_woken_by_the_next_change";
const WOKEN: &str = "a_sleeping_reader_is_woken_for_every_record";
const MISSED_CHANGE: &str = "a_program_that_missed_a_change_has_its_request_found";

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() {
    let of_the_bell = agentfs_loom_tests::descriptor::MUTANTS;
    for mutant in agentfs_ring::ordering::MUTANTS.iter().chain(of_the_bell) {
        let model = CAUGHT_BY.iter().find(|(name, _)| name == mutant);
        println!("{mutant} {}", model.map_or("", |(_, model)| model));
    }
}
