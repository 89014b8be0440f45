package forward

import "net/netip"

// Reachable reports whether something may be forwarded to the address.
func Reachable(a netip.Addr) bool { return reachable(a) }
