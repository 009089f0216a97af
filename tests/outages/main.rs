//! What networks and servers do to a factory: nothing is lost, nothing is there twice, and everything ends in time.
//!
//! Every story is told on every kind of server; a kind is added by a constructor of [`stage::Backend`] and a line below.
//!
//! * `stage.rs`: a factory over a proxy to a server.
//! * `faults.rs`: networks that are slow, refuse or go silent. `replies.rs`: replies that are lost.
//! * `restarts.rs`: servers that are killed. `breaker.rs`: servers that keep failing. `replica.rs`: copies that are behind or
//!   dead. `endings.rs`: errors that stay, and closing meanwhile.
#![cfg(all(unix, feature = "postgres", feature = "mysql", feature = "dynamodb"))]

mod breaker;
#[path = "../dynamodb_support/mod.rs"]
mod dynamodb_support;
mod endings;
mod faults;
mod replica;
mod replies;
mod restarts;
#[path = "../servers/mod.rs"]
mod servers;
mod stage;

macro_rules! tests {
    ($server:ident: $($file:ident::$story:ident),+ $(,)?) => {
        mod $server {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() -> crate::stage::TestResult {
                    match crate::stage::Backend::$server().await? {
                        Some(backend) => crate::$file::$story(&backend).await,
                        None => Ok(()),
                    }
                }
            )+
        }
    };
}

macro_rules! stories {
    ($server:ident: $($file:ident::$story:ident),* $(,)?) => {
        tests! { $server:
            $($file::$story,)*
            breaker::a_store_that_keeps_failing_is_not_asked_for_a_while,
            endings::closing_does_not_wait_for_calls_that_wait_for_a_connection,
            faults::a_slow_network_costs_time_and_nothing_else,
            faults::a_server_that_refuses_for_a_second_is_back_afterwards,
            faults::a_network_that_goes_silent_delays_nobody_beyond_the_deadline,
            replica::rows_that_a_replica_lacks_come_from_the_primary,
            replica::rows_that_a_replica_has_are_not_asked_of_the_primary,
            replica::a_dead_replica_costs_its_attempts_and_then_nothing,
            replies::an_insert_that_never_arrived_is_sent_again,
            replies::an_insert_whose_reply_was_lost_is_found_stored,
            replies::a_key_that_another_stored_meanwhile_is_used_instead,
        }
    };
}

stories! { postgres:
    endings::an_error_that_stays_reaches_the_caller_and_makes_no_second_key,
    restarts::a_server_that_is_killed_under_load_loses_and_doubles_no_key,
}
stories! { mariadb:
    endings::an_error_that_stays_reaches_the_caller_and_makes_no_second_key,
    restarts::a_server_that_is_killed_under_load_loses_and_doubles_no_key,
}
// It knows no rights, and forgets everything when it ends.
stories! { moto: }
