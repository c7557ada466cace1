//! Which servers a request has been on.

/// The servers one request has tried. They are known by their ids, so that the set stays right when a retry comes to a
/// newer snapshot. No allocation up to [`Tried::INLINE`] servers.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    inline: [u32; Self::INLINE],
    len: usize,
    more: Vec<u32>,
}

impl Tried {
    /// Servers held without allocation; more retries than that are rare.
    pub const INLINE: usize = 7;

    /// Nothing tried yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing has been tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many servers have been tried.
    pub fn len(&self) -> usize {
        self.len + self.more.len()
    }

    /// Whether the server of this id has been tried.
    pub fn contains(&self, id: u32) -> bool {
        self.inline[..self.len].contains(&id) || self.more.contains(&id)
    }

    pub(super) fn insert(&mut self, id: u32) {
        match self.inline.get_mut(self.len) {
            Some(free) => {
                *free = id;
                self.len += 1;
            }
            None => self.more.push(id),
        }
    }
}
