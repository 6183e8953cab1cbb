//! MMDB files: autonomous systems, countries, cities.

use std::{fmt, net::IpAddr, path::PathBuf};

use maxminddb::Reader;
use serde::{Deserialize, Deserializer, de::Visitor};
use swarm_core::directory::Network;

use super::{Found, letters};
use crate::{Error, fake};

/// The fields of the usual databases, in MaxMind's and in flat form. One file may have any of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    autonomous_system_number: Option<Number>,
    autonomous_system_organization: Option<String>,
    country: Option<Country>,
    country_code: Option<String>,
    location: Option<Point>,
    latitude: Option<Number>,
    longitude: Option<Number>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Country {
    iso_code: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Point {
    latitude: Option<Number>,
    longitude: Option<Number>,
}

/// A number of whatever type: MaxMind writes places as doubles, DB-IP as floats.
#[derive(Clone, Copy, Debug)]
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Databases, asked in order; what the first knows counts.
pub(super) struct Databases(Vec<Reader<Vec<u8>>>);

impl Databases {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let open = |path: &PathBuf| {
            Reader::open_readfile(path).map_err(|source| Error::Database {
                path: path.clone(),
                source,
            })
        };
        Ok(Self(paths.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// What is known of `address`. What is broken in a database counts as not known.
    pub(super) fn find(&self, address: IpAddr, found: &mut Found) {
        for reader in &self.0 {
            let known =
                |reader: &Reader<Vec<u8>>| reader.lookup(address).ok()?.decode::<Record>().ok()?;
            if let Some(record) = known(reader) {
                record.apply(found);
            }
        }
    }
}

/// Reads `bytes` as a database, whatever they are: an address has the same place each time, on the globe.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn assert_readable(bytes: &[u8]) {
    let Ok(reader) = Reader::from_source(bytes.to_vec()) else {
        return;
    };
    let databases = Databases(vec![reader]);
    for address in [
        "192.0.2.1",
        "0.0.0.0",
        "255.255.255.255",
        "2001:db8::1",
        "::",
    ] {
        let address: IpAddr = address.parse().expect("an address");
        let find = || {
            let mut found = Found::default();
            databases.find(address, &mut found);
            found
        };
        let found = find();
        assert_eq!(found, find());
        if let Some(location) = found.network.location {
            assert!((-9_000..=9_000).contains(&location.lat_centideg));
            assert!((-18_000..=18_000).contains(&location.lon_centideg));
        }
    }
}

impl Record {
    fn apply(self, found: &mut Found) {
        let network: &mut Network = &mut found.network;
        if let Some(asn) = self.autonomous_system_number.filter(|_| network.asn == 0) {
            network.asn = asn.0 as u32;
            found.isp = self.autonomous_system_organization;
        }
        let nested = self.country.and_then(|country| country.iso_code);
        if let Some(code) = nested.or(self.country_code)
            && network.country == [0; 2]
        {
            network.country = letters(&code);
        }
        let point = self.location.unwrap_or_default();
        let latitude = point.latitude.or(self.latitude);
        let longitude = point.longitude.or(self.longitude);
        if let (Some(latitude), Some(longitude), None) = (latitude, longitude, network.location) {
            network.location = Some(fake::location(latitude.0, longitude.0));
        }
    }
}
