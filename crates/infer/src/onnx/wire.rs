//! Reads protobuf messages, the encoding of ONNX files: fields by number, their
//! bytes borrowed from the file. Nothing is allocated here, so a short file
//! cannot ask for much; whoever descends into a message bounds the depth.

use crate::error::{Error, Result};

/// The value of a field as it is encoded.
#[derive(Debug, Clone, Copy)]
pub enum Wire<'a> {
    /// Integers, booleans and enumerations.
    Varint(u64),
    /// A double.
    Fixed64([u8; 8]),
    /// Text, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// A float.
    Fixed32([u8; 4]),
}

/// The fields of a message, in the order of the file.
#[derive(Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of a message's bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    fn field(&mut self) -> Result<(u32, Wire<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| damaged())?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.fixed()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| damaged())?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(damaged)?;
                self.rest = rest;
                Wire::Bytes(bytes)
            }
            5 => Wire::Fixed32(self.fixed()?),
            _ => return Err(damaged()),
        };
        if number == 0 { Err(damaged()) } else { Ok((number, value)) }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or_else(damaged)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Adds the integers of the next fields of this number, as far as they come one
    /// behind the other and one a field.
    pub fn more_ints(&mut self, number: u8, list: &mut Vec<i64>) -> Result<()> {
        while let [tag, rest @ ..] = self.rest {
            if *tag != number << 3 {
                break;
            }
            self.rest = rest;
            list.push(self.varint()? as i64);
        }
        Ok(())
    }

    /// As [`more_ints`](Self::more_ints), of floats.
    pub fn more_floats(&mut self, number: u8, list: &mut Vec<f32>) -> Result<()> {
        while let [tag, a, b, c, d, rest @ ..] = self.rest {
            if *tag != number << 3 | 5 {
                break;
            }
            self.rest = rest;
            list.push(f32::from_le_bytes([*a, *b, *c, *d]));
        }
        Ok(())
    }

    #[inline]
    fn varint(&mut self) -> Result<u64> {
        // Most of them have one byte.
        if let [byte @ 0..128, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for place in 0..10 {
            let (byte, rest) = self.rest.split_first().ok_or_else(damaged)?;
            self.rest = rest;
            value |= u64::from(byte & 127) << (7 * place);
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
        Err(damaged())
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// What is no message.
pub fn damaged() -> Error {
    Error::data("it is cut off or no ONNX model")
}

impl<'a> Wire<'a> {
    /// A message's bytes, or text before it is checked.
    #[inline]
    pub fn bytes(self) -> Result<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(damaged()) }
    }

    /// A text.
    #[inline]
    pub fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::data("it has a text that is no UTF-8"))
    }

    /// An integer.
    pub fn int(self) -> Result<i64> {
        if let Self::Varint(value) = self { Ok(value as i64) } else { Err(damaged()) }
    }

    /// A float.
    pub fn float(self) -> Result<f32> {
        if let Self::Fixed32(bytes) = self { Ok(f32::from_le_bytes(bytes)) } else { Err(damaged()) }
    }

    /// Adds one integer or packed integers to a list.
    #[inline]
    pub fn ints(self, list: &mut Vec<i64>) -> Result<()> {
        match self {
            Self::Varint(value) => list.push(value as i64),
            Self::Bytes(bytes) => {
                let mut packed = Fields::of(bytes);
                while !packed.rest.is_empty() {
                    list.push(packed.varint()? as i64);
                }
            }
            _ => return Err(damaged()),
        }
        Ok(())
    }

    /// Adds one float or packed floats to a list.
    #[inline]
    pub fn floats(self, list: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::Fixed32(bytes) => list.push(f32::from_le_bytes(bytes)),
            Self::Bytes(bytes) => list.extend(packed(bytes)?.map(f32::from_le_bytes)),
            _ => return Err(damaged()),
        }
        Ok(())
    }

    /// Adds one double or packed doubles to a list.
    pub fn doubles(self, list: &mut Vec<f64>) -> Result<()> {
        match self {
            Self::Fixed64(bytes) => list.push(f64::from_le_bytes(bytes)),
            Self::Bytes(bytes) => list.extend(packed(bytes)?.map(f64::from_le_bytes)),
            _ => return Err(damaged()),
        }
        Ok(())
    }
}

/// Numbers of `N` bytes side by side.
pub fn packed<const N: usize>(bytes: &[u8]) -> Result<impl Iterator<Item = [u8; N]>> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() { Ok(chunks.iter().copied()) } else { Err(damaged()) }
}
