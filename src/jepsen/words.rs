//! Closed word lists: an enum, the one spelling of each variant, and the way back from a spelling.
//!
//! The plan, the history and the report all spell their states with such words. This file leans on nothing; what
//! the words mean is said where they are declared.

/// Declares an enum whose variants each have exactly one spelling. Spellings are compared byte for byte.
macro_rules! words {
    (
        $(#[$doc:meta])*
        $vis:vis enum $name:ident {
            $first:ident = $first_word:literal $first_doc:literal,
            $($variant:ident = $word:literal $variant_doc:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            #[doc = $first_doc]
            $first,
            $(#[doc = $variant_doc] $variant,)*
        }

        impl $name {
            /// Every variant, in the order of declaration.
            $vis const ALL: &'static [Self] = &[Self::$first, $(Self::$variant,)*];

            /// The spelling of this variant.
            #[must_use]
            $vis const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)*
                }
            }

            /// The variant with this spelling, or `None` when no variant is spelled exactly so.
            #[must_use]
            $vis fn from_word(word: &str) -> Option<Self> {
                match word {
                    $first_word => Some(Self::$first),
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl $crate::jepsen::words::Word for $name {
            const EXPECTED: &'static str = concat!("one of `", $first_word, "`", $(", `", $word, "`",)*);

            fn from_word(word: &str) -> Option<Self> {
                Self::from_word(word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(in crate::jepsen) use words;

/// What parsers need to know of any word list.
pub(in crate::jepsen) trait Word: Sized {
    /// All spellings, as a message about an unknown word puts it.
    const EXPECTED: &'static str;

    /// The variant with exactly this spelling.
    fn from_word(word: &str) -> Option<Self>;
}

#[cfg(test)]
mod tests {
    use super::Word;

    words! {
        /// A list of two, to see what the macro makes of it.
        enum Coin {
            Heads = "heads" "The side with the face.",
            Tails = "tails" "The other side.",
        }
    }

    #[test]
    fn every_word_leads_back_to_its_variant() {
        for coin in Coin::ALL {
            assert_eq!(Coin::from_word(coin.as_str()), Some(*coin));
            assert_eq!(coin.to_string(), coin.as_str());
        }
    }

    #[test]
    fn a_word_in_another_case_or_with_a_blank_is_no_word() {
        for word in ["Heads", "HEADS", "heads ", "", "edge"] {
            assert_eq!(Coin::from_word(word), None, "{word:?}");
        }
        assert_eq!(Coin::EXPECTED, "one of `heads`, `tails`");
    }
}
