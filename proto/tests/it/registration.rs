//! Tests the requests of the channel.

use agentfs_proto::registration::Registration;
use proptest::prelude::*;

fn registration() -> impl Strategy<Value = Registration> {
    prop_oneof![
        any::<(u32, u32, u32, u64, u64)>().prop_map(|(queue, wd, mask, st_dev, st_ino)| {
            Registration::Set {
                queue,
                wd,
                mask,
                st_dev,
                st_ino,
            }
        }),
        any::<(u32, u32)>().prop_map(|(queue, wd)| Registration::Remove { queue, wd }),
        any::<u32>().prop_map(|queue| Registration::Close { queue }),
        any::<(u32, u64, u64)>().prop_map(|(queue, instance, after)| Registration::Resume {
            queue,
            instance,
            after,
        }),
    ]
}

proptest! {
    #[test]
    fn four_words_say_the_same(registration in registration()) {
        prop_assert_eq!(Registration::from_words(registration.to_words()), Some(registration));
    }

    #[test]
    fn an_unknown_operation_is_none(operation in 5_u32.., rest in any::<[u64; 3]>()) {
        let [b, c, d] = rest;
        prop_assert_eq!(Registration::from_words([u64::from(operation), b, c, d]), None);
    }
}
