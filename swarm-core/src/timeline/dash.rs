//! Reading DASH manifests.
