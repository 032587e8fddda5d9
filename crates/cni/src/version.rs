//! Versions of the CNI specification.

use serde_json::{Value, json};

use crate::error::{Error, INCOMPATIBLE_VERSION, Result};
use crate::fields::Fields;

/// A version that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// All of them.
pub(crate) const SUPPORTED: [Version; 5] =
    [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

impl Version {
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    /// The version of a configuration; one that says nothing is of 0.1.0.
    ///
    /// # Errors
    /// The version is not spoken here.
    pub(crate) fn of(fields: &Fields<'_>) -> Result<Self> {
        let text = fields.text("cniVersion")?.unwrap_or("0.1.0");
        SUPPORTED.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let spoken = SUPPORTED.map(Self::as_str).join(", ");
            Error::new(INCOMPATIBLE_VERSION, format!("cniVersion {text:?} is not supported"))
                .because(format!("supported are {spoken}"))
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// The answer to VERSION.
pub(crate) fn supported() -> Value {
    json!({"cniVersion": Version::NEWEST.as_str(), "supportedVersions": SUPPORTED.map(Version::as_str)})
}
