//! Enums that are one word in history, on the wire and in JSON: one table each, so that the words cannot drift apart.

/// Defines an enum with `as_str`, `from_word`, `ALL`, `Display` and serde as its word. The first variant stands for every
/// word that this build does not know: a record written by a newer build must still be read.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            #[default]
            /// A word that this build does not know.
            Unspecified,
            $($(#[$vmeta])* $variant),+
        }
        impl $name {
            /// Every known value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $name::Unspecified => "unspecified", $($name::$variant => $word),+ }
            }
            /// The value of a word; [`Self::Unspecified`] if this build does not know it.
            pub fn from_word(word: &str) -> Self {
                match word { $($word => $name::$variant,)+ _ => $name::Unspecified }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                Ok(Self::from_word(&word))
            }
        }
    };
}
pub(crate) use words;
