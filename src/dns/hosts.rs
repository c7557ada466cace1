//! `/etc/hosts`, by the rules of hosts(5).

use std::collections::HashMap;
use std::net::IpAddr;

/// The file's names, in lower case, with all their addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Takes every line that can be understood; the file belongs to others, so there is nobody to complain to.
    pub(super) fn parse(text: &str) -> Self {
        let mut names = HashMap::<String, Vec<IpAddr>>::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(Ok(addr)) = words.next().map(str::parse) else { continue };
            for name in words {
                names.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default().push(addr);
            }
        }
        Self(names)
    }

    /// Addresses of `name` (lower case, no trailing dot), in the order of the file.
    pub(super) fn get(&self, name: &str) -> Option<&[IpAddr]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_and_both_families_are_found_and_the_rest_is_ignored() {
        let hosts = Hosts::parse(concat!(
            "# comment\n",
            "10.0.0.1\tApp.Example app # the first\n",
            "  2001:db8::1 app.example.\n",
            "10.0.0.2 app.example\r\n",
            "not-an-address app.example\n",
            "fe80::1%eth0 scoped\n",
            "10.0.0.3\n",
            "10.0.0.4 # only a comment\n",
            "\n",
        ));
        let addrs = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(hosts.get("app.example"), Some(&addrs(&["10.0.0.1", "2001:db8::1", "10.0.0.2"])[..]));
        assert_eq!(hosts.get("app"), Some(&addrs(&["10.0.0.1"])[..]));
        assert_eq!(hosts.0.len(), 2, "{hosts:?}");
    }
}
