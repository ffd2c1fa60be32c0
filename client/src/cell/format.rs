//! Which schemas of a value a build reads and writes, and how.

use std::sync::Arc;

use heirloom_region::error::{Error, Incompatible, Misuse};
use heirloom_region::objects::{CellValue, Part};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::Codec;

type Upgrade<T> = Arc<dyn Fn(&[u8], Codec) -> Result<T, String> + Send + Sync>;
type Downgrade<T> = Arc<dyn Fn(&T, Codec) -> Result<Vec<u8>, String> + Send + Sync>;

/// What a build reads and writes of one cell.
#[derive(Clone)]
pub(crate) struct Format<T> {
    pub(super) schema: u32,
    pub(super) codec: Codec,
    pub(super) upgrades: Vec<(u32, Upgrade<T>)>,
    pub(super) downgrades: Vec<(u32, Downgrade<T>)>,
}

impl<T: Serialize + DeserializeOwned> Format<T> {
    pub(crate) fn new(schema: u32) -> Self {
        Self { schema, codec: Codec::default(), upgrades: Vec::new(), downgrades: Vec::new() }
    }
    pub(super) fn readable(&self) -> Vec<u32> {
        std::iter::once(self.schema).chain(self.upgrades.iter().map(|u| u.0)).collect()
    }
    pub(super) fn written(&self) -> Vec<u32> {
        std::iter::once(self.schema).chain(self.downgrades.iter().map(|d| d.0)).collect()
    }
    /// Each schema has one way to be read and one to be written.
    pub(super) fn check(&self, name: &str) -> Result<(), Misuse> {
        for mut numbers in [self.readable(), self.written()] {
            numbers.sort_unstable();
            if let Some(twice) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
                let found = format!("{name}: {} named twice", twice[0]);
                return Err(Misuse::Argument { what: "schema", found });
            }
        }
        Ok(())
    }

    /// The value in the first of its schemas that this build reads.
    pub(crate) fn decode(&self, name: &str, parts: &[Part]) -> Result<T, Error> {
        let find = |schema: u32| parts.iter().find(|part| part.schema == schema);
        let codec = |part: &Part| {
            Codec::from_id(part.codec).ok_or_else(|| Incompatible::Decode {
                name: name.to_owned(),
                schema: part.schema,
                why: format!("codec {}, this build knows {}", part.codec, Codec::Bincode.id()),
            })
        };
        let wrong = |schema, why| Incompatible::Decode { name: name.to_owned(), schema, why }.into();
        if let Some(part) = find(self.schema) {
            return codec(part)?.decode(&part.bytes).map_err(|why| wrong(part.schema, why));
        }
        for (schema, upgrade) in &self.upgrades {
            if let Some(part) = find(*schema) {
                return upgrade(&part.bytes, codec(part)?).map_err(|why| wrong(part.schema, why));
            }
        }
        Err(unreadable(name, self.readable(), parts))
    }

    /// `value` in all schemas that this build writes.
    pub(super) fn encode(&self, name: &str, value: &T) -> Result<Vec<Part>, Misuse> {
        let codec = self.codec;
        let part = |schema, bytes: Result<Vec<u8>, String>| match bytes {
            Ok(bytes) => Ok(Part { schema, codec: codec.id(), bytes }),
            Err(why) => Err(Misuse::Encode { name: name.to_owned(), why }),
        };
        let own = part(self.schema, codec.encode(value));
        let older = self.downgrades.iter().map(|(schema, down)| part(*schema, down(value, codec)));
        std::iter::once(own).chain(older).collect()
    }
}

/// Whether a value that is there can be read by one that reads `readable`.
pub(super) fn verdict(name: &str, readable: &[u32], value: &Option<CellValue>) -> Result<(), Error> {
    match value {
        Some(value) if !value.parts.iter().any(|part| readable.contains(&part.schema)) => {
            Err(unreadable(name, readable.to_vec(), &value.parts))
        }
        _ => Ok(()),
    }
}

fn unreadable(name: &str, readable: Vec<u32>, parts: &[Part]) -> Error {
    let found = parts.first().map_or(0, |part| part.schema);
    Incompatible::Schema { name: name.to_owned(), readable, found }.into()
}
