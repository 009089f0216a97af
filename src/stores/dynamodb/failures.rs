//! What errors mean, and what helps.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::aws::{Common, Origin, common, judge};
use crate::error::StoreError;
use crate::stores::place::{permanent, transient};

pub(super) const CONNECTING: &str = "connecting to DynamoDB";
pub(super) const LOADING: &str = "loading a key from DynamoDB";
pub(super) const STORING: &str = "storing a key in DynamoDB";
pub(super) const LISTING: &str = "listing keys in DynamoDB";
pub(super) const REVOKING: &str = "revoking a key in DynamoDB";
pub(super) const SHREDDING: &str = "shredding a key in DynamoDB";
pub(super) const REPLACING: &str = "replacing a wrapped key in DynamoDB";
pub(super) const INSPECTING: &str = "looking at the key table in DynamoDB";
pub(super) const MIGRATING: &str = "changing the key table in DynamoDB";

pub(super) const NO_TABLE: &str = "check the name and the region, or make the table: keyward migrate --store … --apply";
pub(super) const NO_REGION: &str =
    "name the region: region=… in the address of the store, AWS_REGION, or the profile's own";
/// Whether the service hides something: the credentials may not see it, or it does not know the question.
pub(super) fn is_hidden<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let codes = ["AccessDeniedException", "AccessDenied", "UnknownOperationException", "UnsupportedOperationException"];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Sorts an error into transient and permanent, and says what helps.
pub(super) fn failure<E>(operation: &'static str, place: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let told = judge(error);
    let (passes, advice) = match &told.origin {
        Origin::Service { code, status } => advice(operation, code).unwrap_or((*status >= 500 || *status == 429, None)),
        Origin::Stranger { status } => (*status >= 500 || matches!(status, 408 | 429), told.advice),
        Origin::Clock | Origin::Timeout | Origin::Network | Origin::LateCredentials => (true, told.advice),
        Origin::Certificate | Origin::NoCredentials | Origin::Unmade => (false, told.advice),
    };
    (if passes { transient } else { permanent })(operation, place, advice, told.words)
}

/// Tells whether an [error](https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html) may pass,
/// and what helps; `None` where the code is of no meaning here.
fn advice(operation: &'static str, code: &str) -> Option<(bool, Option<&'static str>)> {
    Some(match code {
        "ProvisionedThroughputExceededException" => {
            (true, Some("more is asked of the table than is provisioned: raise its capacity, or make it on-demand"))
        }
        "LimitExceededException"
        | "ResourceInUseException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "ReplicatedWriteConflictException" => (true, None),
        "ResourceNotFoundException" | "TableNotFoundException" => (false, Some(NO_TABLE)),
        "ValidationException" | "SerializationException" => {
            (false, Some("is the table made for keys? keyward migrate --store … shows how it should be"))
        }
        "UnknownOperationException" => (false, Some("what is at the endpoint lacks this operation of DynamoDB")),
        _ => {
            let (meaning, advice) = common(code)?;
            match meaning {
                Common::Throttled | Common::Unavailable => (true, advice),
                Common::AccessDenied => (false, advice.or(Some(rights(operation)))),
                Common::Credentials => (false, advice),
            }
        }
    })
}

/// Names the rights that an operation needs.
fn rights(operation: &'static str) -> &'static str {
    match operation {
        LISTING => "allow dynamodb:Scan and dynamodb:Query on the table",
        REVOKING | REPLACING => "allow dynamodb:GetItem and dynamodb:UpdateItem on the table",
        SHREDDING => "allow dynamodb:Query, dynamodb:PutItem and dynamodb:DeleteItem on the table",
        INSPECTING => "allow dynamodb:DescribeTable on the table",
        MIGRATING => "allow dynamodb:CreateTable, DescribeTable, UpdateTable and UpdateContinuousBackups on the table",
        _ => "allow dynamodb:GetItem, dynamodb:Query and dynamodb:PutItem on the table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_transient() {
        for code in ["ProvisionedThroughputExceededException", "ThrottlingException", "InternalServerError"] {
            assert!(advice(LOADING, code).is_some_and(|(is_transient, _)| is_transient), "{code}");
        }
        for code in
            ["AccessDeniedException", "ResourceNotFoundException", "ExpiredTokenException", "ValidationException"]
        {
            let known = advice(LOADING, code).unwrap();
            assert!(!known.0 && known.1.is_some(), "{code}");
        }
        assert_eq!(advice(LOADING, "Unheard"), None);
    }

    #[test]
    fn each_operation_names_its_rights() {
        for (operation, right) in [
            (LOADING, "GetItem"),
            (STORING, "PutItem"),
            (LISTING, "Scan"),
            (REVOKING, "UpdateItem"),
            (REPLACING, "UpdateItem"),
            (SHREDDING, "DeleteItem"),
            (INSPECTING, "DescribeTable"),
            (MIGRATING, "UpdateContinuousBackups"),
        ] {
            assert!(rights(operation).contains(right), "{operation}");
        }
    }
}
