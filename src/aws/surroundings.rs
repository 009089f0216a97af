//! What the surroundings of a process say about AWS.

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

/// Finds region and credentials. Who names a profile means it: its credentials are taken although the environment has others.
pub(crate) async fn surroundings(region: Option<Region>, profile: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(region);
    }
    let Some(profile) = profile else { return loader.load().await };
    let found = loader.profile_name(profile).load().await;
    let config = ProviderConfig::without_region().with_region(found.region().cloned());
    let provider = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&config).build();
    let credentials = OfProfile { provider, name: profile.to_owned() };
    found.into_builder().credentials_provider(SharedCredentialsProvider::new(credentials)).build()
}

/// The credentials of a profile; where there are none, it says of which.
#[derive(Debug)]
struct OfProfile {
    provider: ProfileFileCredentialsProvider,
    name: String,
}

impl ProvideCredentials for OfProfile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.provider.provide_credentials().await.map_err(|error| match error {
                CredentialsError::CredentialsNotLoaded(_) => CredentialsError::not_loaded(format!(
                    "there is no profile {:?}, or it has no credentials",
                    self.name
                )),
                other => other,
            })
        })
    }
}
