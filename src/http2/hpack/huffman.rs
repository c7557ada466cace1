//! Counts what strings in the Huffman code of HPACK are made of (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: of each length the lowest ones are symbols, all others begin longer ones. How many symbols each
//! length has is therefore all there is to know of it, unless their values are wanted.

/// How many symbols have a code of so many bits.
const SYMBOLS_BY_BITS: [usize; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// Beginnings of codes that are none themselves, the empty one being 0: one less than there are codes.
const STATES: usize = 256;

/// The low bits of a [`Step`] are the state that it leads to.
type Step = u16;
const STATE: Step = 0xff;
/// A symbol is complete.
const SYMBOL: Step = 0x100;
/// What follows the last symbol can be padding: at most 7 bits, all ones.
const MAY_END: Step = 0x200;
/// EOS, which no string may have.
const EOS: Step = 0x400;

/// Most bits of padding.
const MOST_PADDING: usize = 7;

/// Where four bits lead. A code has five at least, so that they complete one symbol at most.
static STEPS: [[Step; 16]; STATES] = by_four_bits(&by_bit());

/// A string of which some bytes are here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbols(Step);

impl Symbols {
    /// One of which there is nothing.
    pub(super) fn new() -> Self {
        Self(MAY_END)
    }

    /// Takes bytes of it, and says how many symbols end in them; `None`: one of them is EOS.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<u32> {
        let (mut step, mut seen, mut symbols) = (self.0, 0, 0);
        for byte in bytes {
            for four in [byte >> 4, byte & 0xf] {
                step = STEPS[usize::from(step & STATE)][usize::from(four)];
                seen |= step;
                symbols += u32::from(step & SYMBOL != 0);
            }
        }
        self.0 = step;
        (seen & EOS == 0).then_some(symbols)
    }

    /// Whether it can end here.
    pub(super) fn may_end(self) -> bool {
        self.0 & MAY_END != 0
    }
}

/// Where each bit leads from each state. States are numbered by length, and of one length from the highest one down.
const fn by_bit() -> [[Step; 2]; STATES] {
    let mut steps = [[0; 2]; STATES];
    let (mut first, mut states, mut bits) = (0, 1, 0);
    while states > 0 {
        bits += 1;
        let next = first + states;
        let longer = 2 * states - SYMBOLS_BY_BITS[bits];
        let mut i = 0;
        while i < 2 * states {
            // Of all ones is the first one only.
            let step = match i {
                0 if longer == 0 => EOS,
                0 if bits <= MOST_PADDING => next as Step | MAY_END,
                i if i < longer => (next + i) as Step,
                _ => SYMBOL | MAY_END,
            };
            steps[first + i / 2][1 - i % 2] = step;
            i += 1;
        }
        (first, states) = (next, longer);
    }
    assert!(first == STATES, "the codes leave nothing out");
    steps
}

const fn by_four_bits(steps: &[[Step; 2]; STATES]) -> [[Step; 16]; STATES] {
    let mut all = [[0; 16]; STATES];
    let mut i = 0;
    while i < 16 * STATES {
        let (state, four) = (i / 16, i % 16);
        let (mut step, mut seen, mut bit) = (state as Step, 0, 4);
        while bit > 0 {
            bit -= 1;
            step = steps[(step & STATE) as usize][four >> bit & 1];
            seen |= step & (SYMBOL | EOS);
        }
        all[state][four] = step | seen;
        i += 1;
    }
    all
}
