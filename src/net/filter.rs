//! Socket filters: programs of classic BPF that the kernel runs over each packet before a socket gets it.
//!
//! A filter is put together from the front; each step works on the value that was loaded last. It ends in [`Filter::keep`]
//! or [`Filter::refuse`]. A packet too short for a load is dropped.

use std::net::IpAddr;

use socket2::SockFilter;

/// A program, or a part of one.
#[derive(Debug, Default)]
pub struct Filter(Vec<SockFilter>);

/// Offset of the IP header, wherever the packet begins for the socket (SKF_NET_OFF).
pub const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();
/// "Offset" of the packet's type: 0 if it is for this box (SKF_AD_OFF + SKF_AD_PKTTYPE).
pub const PACKET_TYPE: u32 = (-0x1000_i32 + 4).cast_unsigned();

// BPF_LD | BPF_W, BPF_H, BPF_B | BPF_ABS; the last with BPF_IND; BPF_LDX | BPF_MSH; and so on, of linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_AFTER: u16 = 0x50;
const LOAD_IPV4_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

impl Filter {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads the byte at `offset`.
    #[must_use]
    pub fn byte(self, offset: u32) -> Self {
        self.then(LOAD_BYTE, 0, 0, offset)
    }

    /// Loads the two bytes at `offset`.
    #[must_use]
    pub fn half(self, offset: u32) -> Self {
        self.then(LOAD_HALF, 0, 0, offset)
    }

    /// Loads the byte that is `offset` after the IPv4 header that begins at `header`, which is the same for both if the
    /// packet begins with it.
    #[must_use]
    pub fn byte_after_ipv4(self, header: u32, offset: u32) -> Self {
        self.then(LOAD_IPV4_HEADER_LENGTH, 0, 0, header).then(LOAD_BYTE_AFTER, 0, 0, header + offset)
    }

    /// Keeps only the bits of `mask` of the value.
    #[must_use]
    pub fn and(self, mask: u32) -> Self {
        self.then(AND, 0, 0, mask)
    }

    /// Drops the packet unless the value is `value`.
    #[must_use]
    pub fn require(self, value: u32) -> Self {
        self.then(JUMP_IF_EQUAL, 1, 0, value).refuse()
    }

    /// Goes on with `part`, which must end, if the value is `value`.
    #[must_use]
    pub fn when(self, value: u32, part: Self) -> Self {
        self.branch(JUMP_IF_EQUAL, value, part)
    }

    /// Goes on with `part`, which must end, if the value has one of the bits `bits`.
    #[must_use]
    pub fn when_any_bit(self, bits: u32, part: Self) -> Self {
        self.branch(JUMP_IF_SET, bits, part)
    }

    /// Goes on with `part`, which must end, if the IPv4 destination at `offset` is among `addresses`.
    #[must_use]
    pub fn when_ipv4_among(self, offset: u32, addresses: &[IpAddr], part: Self) -> Self {
        let v4 = addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let values: Vec<_> = v4.map(|ip| vec![(offset, ip.to_bits())]).collect();
        self.when_one_of(&values, part)
    }

    /// The same of the IPv6 destination.
    #[must_use]
    pub fn when_ipv6_among(self, offset: u32, addresses: &[IpAddr], part: Self) -> Self {
        let v6 = addresses.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        let words = |bits: u128| [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
        let offsets = |bits| (0..).step_by(4).map(|at| offset.wrapping_add(at)).zip(words(bits)).collect();
        let values: Vec<_> = v6.map(|ip| offsets(ip.to_bits())).collect();
        self.when_one_of(&values, part)
    }

    /// Goes on with the steps of `part`.
    #[must_use]
    pub fn append(mut self, part: Self) -> Self {
        self.0.extend(part.0);
        self
    }

    /// The packet is for the socket.
    #[must_use]
    pub fn keep(self) -> Self {
        self.then(RETURN, 0, 0, u32::MAX)
    }

    /// The packet is not.
    #[must_use]
    pub fn refuse(self) -> Self {
        self.then(RETURN, 0, 0, 0)
    }

    /// For `attach_filter`.
    pub fn program(&self) -> &[SockFilter] {
        &self.0
    }

    fn then(mut self, code: u16, when_true: u8, when_false: u8, value: u32) -> Self {
        self.0.push(SockFilter::new(code, when_true, when_false, value));
        self
    }

    /// Conditional jumps reach 255 steps, unconditional ones everything.
    fn branch(self, code: u16, value: u32, part: Self) -> Self {
        self.then(code, 1, 0, value).skip(part.0.len()).append(part)
    }

    fn skip(self, steps: usize) -> Self {
        // A part longer than that is refused as a whole by the kernel, which takes 4096 steps.
        self.then(JUMP, 0, 0, u32::try_from(steps).unwrap_or(u32::MAX))
    }

    /// `part` once, after all comparisons: words at offsets, all of which must be equal for one of `alternatives`.
    fn when_one_of(mut self, alternatives: &[Vec<(u32, u32)>], part: Self) -> Self {
        let each = |words: &Vec<(u32, u32)>| 2 * words.len() + 1;
        let mut left: usize = alternatives.iter().map(each).sum();
        for words in alternatives {
            let mut length = each(words);
            left -= length;
            for (offset, value) in words {
                length -= 2;
                // At most 4 words of 2 steps and the jump.
                let next = u8::try_from(length).unwrap_or(u8::MAX);
                self = self.then(LOAD_WORD, 0, 0, *offset).then(JUMP_IF_EQUAL, 0, next, *value);
            }
            // Over the other alternatives and what follows when there is none.
            self = self.skip(left + 1);
        }
        self.skip(part.0.len()).append(part)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use socket2::SockRef;

    use super::*;

    /// What the kernel does with each of `packets`.
    fn kept<const N: usize>(filter: &Filter, packets: [&[u8]; N]) -> [bool; N] {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        SockRef::from(&receiver).attach_filter(filter.program()).unwrap();
        packets.map(|packet| {
            sender.send(packet).unwrap();
            receiver.recv(&mut [0; 64]).is_ok()
        })
    }

    fn addresses(n: u8) -> Vec<IpAddr> {
        let v4 = (1..=n).map(|i| IpAddr::from([192, 0, 2, i]));
        let v6 = (1..=n).map(|i| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(i), 1]));
        v4.chain(v6).collect()
    }

    #[test]
    fn values_and_bits_branch() {
        let filter = Filter::new().byte(0).when(1, Filter::new().keep()).when_any_bit(0x30, Filter::new().keep());
        let filter = filter.half(1).and(0x0fff).require(0x123).keep();
        let packets: [&[u8]; 6] = [&[1], &[0x20], &[0x40], &[2, 0xf1, 0x23], &[2, 0xf1, 0x22], &[2]];
        assert_eq!(kept(&filter, packets), [true, true, false, true, false, false]);
    }

    #[test]
    fn a_byte_after_a_header_is_found_whatever_its_length() {
        let filter = Filter::new().byte_after_ipv4(1, 2).require(7).keep();
        let (mut short, mut long) = ([0; 40], [0; 40]);
        (short[1], short[1 + 20 + 2]) = (0x45, 7);
        (long[1], long[1 + 24 + 2]) = (0x46, 7);
        assert_eq!(kept(&filter, [&short, &long, &short[..20]]), [true, true, false]);
    }

    #[test]
    fn every_address_of_a_long_list_is_found_and_no_other() {
        for n in [0, 1, 2, 200] {
            let list = addresses(n);
            let v4 = Filter::new().when_ipv4_among(1, &list, Filter::new().keep()).refuse();
            let v6 = Filter::new().when_ipv6_among(1, &list, Filter::new().keep()).refuse();
            for i in [0, 1, 2, 3, 199, 200, 201] {
                let inside = (1..=n).contains(&i);
                let v6_packet = |a: u8, b: u8| [0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, 0, b];
                assert_eq!(kept(&v4, [&[0, 192, 0, 2, i], &[0, 192, 0, 3, i]]), [inside, false], "{i} of {n}");
                assert_eq!(kept(&v6, [&v6_packet(i, 1), &v6_packet(i, 2)]), [inside, false], "{i} of {n}");
            }
        }
    }
}
