//! Whether blocks of fields are what HPACK (RFC 7541) allows. Pure: it takes the bytes of a connection's blocks, in pieces
//! as they come.
//!
//! A block that cannot be decompressed ends the connection with COMPRESSION_ERROR (RFC 9113 section 4.3), for which h2
//! says PROTOCOL_ERROR. Fields themselves are h2's: no text is kept here, only how long it is. That tells how large the
//! entries of the dynamic table are, so which of them are left, so which index means something.

mod huffman;

use std::collections::VecDeque;

use self::huffman::Symbols;

/// Bytes the dynamic table may hold: SETTINGS_HEADER_TABLE_SIZE as it is without having been set, which h2 leaves alone.
const TABLE_SIZE: u32 = 4096;

/// What an entry counts beside its name and value (section 4.1).
const ENTRY: u32 = 32;

/// Bits of an integer behind its first byte: as many as h2 takes (section 5.1 asks for a limit and names none).
const INTEGER_BITS: u32 = 28;

/// How long the names of the static table are, from index 1 on (appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// What is wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HpackError {
    /// An index of 0, or behind the last entry of the tables (sections 2.3.3 and 6.1).
    Index,
    /// An integer that is too large (section 5.1).
    Integer,
    /// A size of the dynamic table that is too large, or behind a field (sections 4.2 and 6.3).
    TableSize,
    /// A string that is not in the Huffman code: wrong padding, or the symbol EOS (section 5.2).
    Huffman,
    /// The block ends within a field.
    Truncated,
}

/// The blocks of one direction of a connection; each is begun, given and ended. After an error it is of no more use.
#[derive(Debug)]
pub struct Blocks {
    step: Step,
    /// A field of the block has begun.
    has_fields: bool,
    /// The field under way goes into the table.
    is_stored: bool,
    /// Bytes of its name, and of its value.
    name: u32,
    value: u32,
    table: Table,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A representation begins (section 6).
    Field,
    /// Behind the first byte of an integer: what it was until here, and the bits that are known beyond that byte.
    Integer { of: Integer, value: u32, shift: u32 },
    /// A string begins.
    String(Part),
    /// So many bytes of a string are to come; `symbols` if it is in the Huffman code.
    Text { of: Part, left: u32, symbols: Option<Symbols> },
}

/// What an integer says.
#[derive(Debug, Clone, Copy)]
enum Integer {
    /// The index of a field.
    Field,
    /// That of a name, or 0.
    Name,
    TableSize,
    Length {
        of: Part,
        is_huffman: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Name,
    Value,
}

impl Default for Blocks {
    fn default() -> Self {
        Self::new()
    }
}

impl Blocks {
    /// A connection's that has seen none.
    pub fn new() -> Self {
        Self { step: Step::Field, has_fields: false, is_stored: false, name: 0, value: 0, table: Table::new() }
    }

    /// The next bytes are those of another block.
    pub fn begin(&mut self) {
        self.step = Step::Field;
        self.has_fields = false;
    }

    /// Takes bytes of the block.
    ///
    /// # Errors
    /// It cannot go on like this.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), HpackError> {
        while let [byte, behind @ ..] = bytes {
            let mut rest = behind;
            self.step = match self.step {
                Step::Field => self.field(*byte)?,
                Step::Text { of, left, symbols } => {
                    let text;
                    (text, rest) = bytes.split_at(bytes.len().min(left as usize));
                    self.text(of, left - text.len() as u32, symbols, text)?
                }
                Step::String(of) => {
                    let is_huffman = *byte & 0x80 != 0;
                    self.integer(Integer::Length { of, is_huffman }, 7, *byte)?
                }
                Step::Integer { of, value, shift } => {
                    let value = value + (u32::from(*byte & 0x7f) << shift);
                    let shift = shift + 7;
                    if *byte & 0x80 == 0 {
                        self.known(of, value)?
                    } else if shift < INTEGER_BITS {
                        Step::Integer { of, value, shift }
                    } else {
                        return Err(HpackError::Integer);
                    }
                }
            };
            bytes = rest;
        }
        Ok(())
    }

    /// The block ends here.
    ///
    /// # Errors
    /// That is within a field.
    pub fn end(&self) -> Result<(), HpackError> {
        if matches!(self.step, Step::Field) { Ok(()) } else { Err(HpackError::Truncated) }
    }

    /// The first byte of a representation (section 6).
    fn field(&mut self, byte: u8) -> Result<Step, HpackError> {
        let is_update = byte & 0xe0 == 0x20;
        if is_update && self.has_fields {
            return Err(HpackError::TableSize);
        }
        self.has_fields = !is_update;
        self.is_stored = byte & 0xc0 == 0x40;
        match byte {
            0x80.. => self.integer(Integer::Field, 7, byte),
            0x40.. => self.integer(Integer::Name, 6, byte),
            0x20.. => self.integer(Integer::TableSize, 5, byte),
            _ => self.integer(Integer::Name, 4, byte),
        }
    }

    /// The first byte of an integer, which is in so many bits of it (section 5.1).
    fn integer(&mut self, of: Integer, bits: u32, byte: u8) -> Result<Step, HpackError> {
        let most = (1 << bits) - 1;
        match u32::from(byte) & most {
            value if value < most => self.known(of, value),
            value => Ok(Step::Integer { of, value, shift: 0 }),
        }
    }

    /// What follows an integer.
    fn known(&mut self, of: Integer, value: u32) -> Result<Step, HpackError> {
        match of {
            Integer::Field => {
                self.table.name(value)?;
                Ok(Step::Field)
            }
            Integer::Name if value == 0 => Ok(Step::String(Part::Name)),
            Integer::Name => {
                self.name = self.table.name(value)?;
                Ok(Step::String(Part::Value))
            }
            Integer::TableSize if value > TABLE_SIZE => Err(HpackError::TableSize),
            Integer::TableSize => {
                self.table.resize(value);
                Ok(Step::Field)
            }
            Integer::Length { of, is_huffman } => {
                *self.part(of) = 0;
                let symbols = is_huffman.then(Symbols::new);
                Ok(if value == 0 { self.complete(of) } else { Step::Text { of, left: value, symbols } })
            }
        }
    }

    /// Takes bytes of a string, behind which so many are left of it.
    fn text(&mut self, of: Part, left: u32, mut symbols: Option<Symbols>, bytes: &[u8]) -> Result<Step, HpackError> {
        let more = match &mut symbols {
            Some(symbols) => symbols.take(bytes).ok_or(HpackError::Huffman)?,
            None => bytes.len() as u32,
        };
        let len = self.part(of);
        *len = len.saturating_add(more);
        if left > 0 {
            return Ok(Step::Text { of, left, symbols });
        }
        if symbols.is_some_and(|symbols| !symbols.may_end()) { Err(HpackError::Huffman) } else { Ok(self.complete(of)) }
    }

    /// What follows a string.
    fn complete(&mut self, of: Part) -> Step {
        match of {
            Part::Name => Step::String(Part::Value),
            Part::Value => {
                if self.is_stored {
                    self.table.store(self.name, self.value);
                }
                Step::Field
            }
        }
    }

    fn part(&mut self, of: Part) -> &mut u32 {
        match of {
            Part::Name => &mut self.name,
            Part::Value => &mut self.value,
        }
    }
}

/// The dynamic table (section 2.3.2), of which the sizes are known.
#[derive(Debug)]
struct Table {
    /// From the latest on; at most 128, as each has [`ENTRY`] bytes at least.
    entries: VecDeque<Entry>,
    /// What they count together, and the most they may.
    size: u32,
    limit: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Bytes of the name.
    name: u16,
    /// What it counts.
    size: u16,
}

impl Table {
    /// An empty one.
    fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_SIZE }
    }

    /// How long the name is that this index leads to, over both tables (section 2.3.3).
    fn name(&self, index: u32) -> Result<u32, HpackError> {
        let at = index.checked_sub(1).ok_or(HpackError::Index)? as usize;
        if let Some(len) = STATIC_NAMES.get(at) {
            return Ok((*len).into());
        }
        match self.entries.get(at - STATIC_NAMES.len()) {
            Some(entry) => Ok(entry.name.into()),
            None => Err(HpackError::Index),
        }
    }

    /// Changes the most it may hold (section 4.3).
    fn resize(&mut self, limit: u32) {
        self.limit = limit;
        self.shrink(limit);
    }

    /// Adds an entry in place of the oldest ones (section 4.4). One that does not fit leaves the table empty.
    fn store(&mut self, name: u32, value: u32) {
        let size = ENTRY.saturating_add(name).saturating_add(value);
        self.shrink(self.limit.saturating_sub(size));
        if size <= self.limit
            && let (Ok(name), Ok(size)) = (u16::try_from(name), u16::try_from(size))
        {
            self.entries.push_front(Entry { name, size });
            self.size += u32::from(size);
        }
    }

    /// Drops the oldest ones until the others count no more than this.
    fn shrink(&mut self, most: u32) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= u32::from(oldest.size);
        }
    }
}

#[cfg(test)]
mod tests;
