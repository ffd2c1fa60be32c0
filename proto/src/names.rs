//! Resource names: `regions/{region}`, `regions/{region}/instances/{instance}`, `regions/{region}/handovers/{number}`.
//!
//! Building never fails; parsing is strict about the shape and leaves the rules of each part (which characters a region's
//! name may have) to whoever knows them.

/// `regions/{region}`.
pub fn region(region: &str) -> String {
    format!("regions/{region}")
}

/// `regions/{region}/instances/{instance}`.
pub fn instance(region: &str, instance: &str) -> String {
    format!("regions/{region}/instances/{instance}")
}

/// `regions/{region}/handovers/{number}`.
pub fn handover(region: &str, number: u64) -> String {
    format!("regions/{region}/handovers/{number}")
}

/// The region of `regions/{region}`; `None` for any other shape.
pub fn parse_region(name: &str) -> Option<&str> {
    name.strip_prefix("regions/").filter(|r| is_part(r))
}

/// Region and instance of `regions/{region}/instances/{instance}`.
pub fn parse_instance(name: &str) -> Option<(&str, &str)> {
    parse_child(name, "instances")
}

/// Region and number of `regions/{region}/handovers/{number}`; the number is `None` for `-`, the running one.
pub fn parse_handover(name: &str) -> Option<(&str, Option<u64>)> {
    let (region, number) = parse_child(name, "handovers")?;
    match number {
        "-" => Some((region, None)),
        n => Some((region, Some(n.parse().ok()?))),
    }
}

/// The last part of a resource name: what people call the thing.
pub fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn parse_child<'a>(name: &'a str, collection: &str) -> Option<(&'a str, &'a str)> {
    let (region, rest) = name.strip_prefix("regions/")?.split_once('/')?;
    let child = rest.strip_prefix(collection)?.strip_prefix('/')?;
    (is_part(region) && is_part(child)).then_some((region, child))
}

fn is_part(part: &str) -> bool {
    !part.is_empty() && !part.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        assert_eq!(parse_region(&region("shop.0")), Some("shop.0"));
        assert_eq!(parse_instance(&instance("shop", "i-4f2a")), Some(("shop", "i-4f2a")));
        assert_eq!(parse_handover(&handover("shop", 17)), Some(("shop", Some(17))));
        assert_eq!(parse_handover("regions/shop/handovers/-"), Some(("shop", None)));
        assert_eq!(short("regions/shop/instances/i-4f2a"), "i-4f2a");
    }

    #[test]
    fn other_shapes_are_refused() {
        for bad in ["", "shop", "regions/", "regions/a/b", "regions//instances/x", "regions/a/instances/", "/regions/a"]
        {
            assert_eq!((parse_region(bad), parse_instance(bad), parse_handover(bad)), (None, None, None), "{bad:?}");
        }
        assert_eq!(parse_handover("regions/shop/handovers/-1"), None);
    }
}
