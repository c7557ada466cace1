//! The first eligible server in file order.

use super::Members;

pub(super) fn pick(count: usize, members: &impl Members) -> Option<usize> {
    (0..count).find(|&i| members.is_eligible(i))
}
