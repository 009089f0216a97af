//! What every metastore must do, told once and run against each of them.
//!
//! * `loading.rs`: what encryption needs. `operating.rs`, `replacing.rs`: what operators need. `corrupt.rs`: rows that are no
//!   records.
//! * `stage.rs`: a fresh store. One file per store says how to make one, and how to write behind its back.

mod corrupt;
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres"))]
mod custom;
#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "dynamodb")]
#[path = "../dynamodb_support/mod.rs"]
mod dynamodb_support;
mod loading;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "mysql")]
#[path = "../mysql_support/mod.rs"]
mod mysql_support;
mod operating;
#[cfg(feature = "postgres")]
mod postgres;
mod replacing;
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres"))]
#[path = "../servers/mod.rs"]
mod servers;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stage;

/// One test per story, each on a fresh store that `$make` makes.
macro_rules! run_against {
    ($make:path: $($group:ident::$story:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $story() -> crate::stage::TestResult {
                match $make().await? {
                    Some(stage) => crate::$group::$story(stage).await,
                    // It was said why, and counted as skipped.
                    None => Ok(()),
                }
            }
        )*
    };
}

/// Runs everything that holds for every store; `$make` returns `TestResult<Option<Stage>>`.
macro_rules! contract {
    ($make:path $(, $group:ident::$story:ident)*) => {
        crate::run_against! { $make:
            loading::what_was_never_stored_is_none
            loading::a_stored_key_is_loaded_exactly_and_as_the_latest
            loading::a_duplicate_leaves_the_first_row_as_it_is
            loading::the_latest_is_the_one_created_last_not_stored_last
            loading::any_time_within_its_range_is_a_creation_time
            loading::ids_are_compared_byte_by_byte
            loading::one_of_many_creators_wins_and_all_see_its_row
            loading::the_latest_can_always_be_loaded_by_its_exact_key
            loading::odd_but_legal_records_are_read
            loading::a_dropped_call_leaves_a_whole_store
            loading::ids_of_255_bytes_fit
            loading::records_of_48_kib_fit
            operating::a_listing_pages_through_everything_once
            operating::the_versions_of_a_key_are_listed_in_order
            operating::a_revocation_says_what_became_of_it
            operating::a_revoked_key_keeps_the_rest_of_its_record
            operating::a_shredded_key_leaves_its_tombstone_alone
            operating::shredding_again_removes_what_others_added_meanwhile
            operating::shredding_compares_ids_byte_by_byte
            operating::a_key_dated_as_a_tombstone_is_shredded_like_any_other
            operating::only_a_tombstone_takes_the_place_of_a_shredded_key
            operating::an_id_with_a_tombstone_takes_no_more_rows
            operating::a_tombstone_can_be_copied_to_another_store
            operating::whoever_stores_after_the_shredding_is_told_duplicate
            operating::an_arc_of_a_store_is_one
            corrupt::a_corrupt_row_is_never_absent
            corrupt::a_corrupt_row_does_not_end_a_listing
            replacing::a_replacement_says_what_became_of_it
            replacing::a_replaced_wrapped_key_keeps_the_rest_of_its_record
            replacing::a_tombstone_gets_no_wrapped_key_and_no_key_becomes_one
            replacing::of_many_replacers_one_wins
            replacing::a_revocation_beside_a_replacement_loses_neither
            corrupt::a_corrupt_row_is_not_changed_and_can_be_shredded
            $($group::$story)*
        }
    };
}

pub(crate) use {contract, run_against};
