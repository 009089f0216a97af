//! What the surroundings of a process say about AWS.

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;

/// Finds region and credentials. Who names a profile means it: its credentials are taken although the environment has others.
pub(crate) async fn surroundings(region: Option<Region>, profile: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(region);
    }
    let Some(profile) = profile else { return loader.load().await };
    let found = loader.profile_name(profile).load().await;
    let config = ProviderConfig::without_region().with_region(found.region().cloned());
    let credentials = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&config).build();
    found.into_builder().credentials_provider(SharedCredentialsProvider::new(credentials)).build()
}
