//! Fixed-width little-endian fields: the one reader and the few writers that every binary format here shares.
//!
//! The reader never goes past its input and never allocates. What a failure is called is each format's own affair,
//! so it reports only what happened and where.

/// Why a field could not be read, and the offset of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// The input ends inside the field.
    TooShort {
        /// Offset of the field.
        at: usize,
    },
    /// The byte that says whether an optional field is present, or whether something is true, is neither 0 nor 1.
    Tag {
        /// Offset of that byte.
        at: usize,
        /// The byte as it was found there.
        value: u8,
    },
}

/// A cursor over a message or a file image.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A cursor at the first byte of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// Offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes have not been read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    /// True when everything was read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.remaining() == 0
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], FieldError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.input.len());
        let Some(end) = end else {
            return Err(FieldError::TooShort { at: self.at });
        };
        let taken = &self.input[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FieldError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn u8(&mut self) -> Result<u8, FieldError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes as a number.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u16(&mut self) -> Result<u16, FieldError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes as a number.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u32(&mut self) -> Result<u32, FieldError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes as a number.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u64(&mut self) -> Result<u64, FieldError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes as a number.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u128(&mut self) -> Result<u128, FieldError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A byte that must be 0 or 1.
    ///
    /// # Errors
    /// When none is left, or it is another value.
    pub fn flag(&mut self) -> Result<bool, FieldError> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(FieldError::Tag { at, value }),
        }
    }

    /// An optional 64-bit number: a flag, then the number if it is set.
    ///
    /// # Errors
    /// As [`Reader::flag`] and [`Reader::u64`].
    pub fn opt_u64(&mut self) -> Result<Option<u64>, FieldError> {
        if self.flag()? { self.u64().map(Some) } else { Ok(None) }
    }

    /// An optional 128-bit number: a flag, then the number if it is set.
    ///
    /// # Errors
    /// As [`Reader::flag`] and [`Reader::u128`].
    pub fn opt_u128(&mut self) -> Result<Option<u128>, FieldError> {
        if self.flag()? { self.u128().map(Some) } else { Ok(None) }
    }
}

/// Appends an optional 64-bit number as [`Reader::opt_u64`] reads it.
pub fn put_opt_u64(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Appends an optional 128-bit number as [`Reader::opt_u128`] reads it.
pub fn put_opt_u128(out: &mut Vec<u8>, value: Option<u128>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_past_the_end_names_its_own_offset_and_takes_nothing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u32(), Err(FieldError::TooShort { at: 1 }));
        assert_eq!(reader.u16(), Ok(0x0302));
        assert!(reader.is_at_end());
        assert_eq!(reader.bytes(usize::MAX), Err(FieldError::TooShort { at: 3 }));
    }

    #[test]
    fn options_accept_only_zero_and_one() {
        let mut bytes = Vec::new();
        put_opt_u64(&mut bytes, None);
        put_opt_u64(&mut bytes, Some(7));
        put_opt_u128(&mut bytes, Some(u128::MAX));
        bytes.push(2);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.opt_u64(), Ok(None));
        assert_eq!(reader.opt_u64(), Ok(Some(7)));
        assert_eq!(reader.opt_u128(), Ok(Some(u128::MAX)));
        assert_eq!(reader.opt_u64(), Err(FieldError::Tag { at: 27, value: 2 }));
    }
}
